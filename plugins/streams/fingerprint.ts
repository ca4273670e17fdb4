import { createHash } from 'node:crypto';
import type { Prompt } from '../llm/client.ts';

/** What a question comes down to, so that an idempotency key cannot stand for two. */
export function fingerprint(model: string, prompt: Prompt): string {
  return createHash('sha256')
    .update(JSON.stringify(withSortedKeys([model, prompt])))
    .digest('base64url');
}

/** The same value with the fields of its objects in one order: a client may write them in any. */
function withSortedKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withSortedKeys);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return entries.map(([name, one]) => [name, withSortedKeys(one)]);
}
