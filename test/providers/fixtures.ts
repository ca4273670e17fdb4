import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Usage } from '../../providers/types.ts';

/** Recorded responses of real providers. They are stored outside the repository, in `FIXTURES_DIR`. */

export interface Fixture {
  readonly file: string;
  readonly provider: string;
  readonly format: string;
  readonly content_type?: string;
  readonly http_status: number;
  readonly headers?: Record<string, string>;
  readonly expected: {
    readonly text: string;
    /** Refusal of the model, which is delivered as text. */
    readonly refusal?: string;
    readonly reasoning: string;
    readonly tool_calls: readonly { id: string | null; name: string; arguments: string }[];
    readonly finish_reason: string | null;
    readonly usage: Record<string, number> | null;
    /** Usage as sent by the provider. */
    readonly usage_raw?: Record<string, unknown> | null;
    readonly error: { message?: string; type?: string | null; code?: string | number | null } | null;
  };
}

const DIR = resolve(process.env.FIXTURES_DIR ?? '../shared/fixtures');

const exists = existsSync(join(DIR, 'manifest.json'));
// A test run that sets FIXTURES_DIR must not skip the recordings.
if (!exists && process.env.FIXTURES_DIR) throw new Error(`FIXTURES_DIR has no manifest.json: ${DIR}`);
/** Reason to skip tests that need recordings; false if there are recordings. */
export const noRecordings = exists ? false : `no recordings at ${DIR}; set FIXTURES_DIR`;

export function fixtures(...formats: string[]): Fixture[] {
  if (noRecordings) return [];
  const all = JSON.parse(readFileSync(join(DIR, 'manifest.json'), 'utf8')) as Fixture[];
  return all.filter(({ format }) => formats.includes(format));
}

export function bytesOf({ file }: Fixture): Buffer {
  return readFileSync(join(DIR, file));
}

const NAMES: Record<keyof Usage, string> = {
  inputTokens: 'input_tokens',
  outputTokens: 'output_tokens',
  totalTokens: 'total_tokens',
  reasoningTokens: 'reasoning_tokens',
  cachedTokens: 'cached_tokens',
  cacheWriteTokens: 'cache_write_tokens',
  longCacheWriteTokens: 'long_cache_write_tokens',
  cost: 'cost',
};

/** Returns a usage with the names of the manifest. */
export function usageOf(usage: Usage | undefined): Record<string, number> | null {
  if (usage === undefined) return null;
  return Object.fromEntries(Object.entries(usage).map(([key, value]) => [NAMES[key as keyof Usage], value]));
}
