import { isDeepStrictEqual } from 'node:util';
import type { Config } from './schema.ts';

/** The new configuration cannot be applied to a running service. */
export class RestartRequired extends Error {
  override readonly name = 'RestartRequired';

  constructor(what: string) {
    super(`needs a restart: ${what}`);
  }
}

/** Settings that a reload applies; `*` stands for any name. All others need a restart. */
const RELOADED_SETTINGS: readonly string[] = [
  'keys',
  'keyDefaults',
  'jwt',
  'anonymous',
  'models',
  'defaultModel',
  'pricesFile',
  'priceTable',
  'deadlines.firstTokenMs',
  'deadlines.idleMs',
  'deadlines.thinkingMs',
  'deadlines.totalMs',
  'providers.*.apiKeys',
  'providers.*.models',
];

const SECTIONS = ['streams', 'deadlines', 'limits', 'redis', 'usage', 'proxy'] as const;

/**
 * Returns the settings that differ from the running configuration and that a reload does not apply, by their names
 * in the file. A provider that is no longer configured is not asked, and needs no restart.
 */
export function settingsThatNeedRestart(running: Config, next: Config): string[] {
  const found: string[] = [];
  const compare = (before: object, after: object, prefix: string, pattern = prefix) => {
    const [a, b] = [before, after] as [Record<string, unknown>, Record<string, unknown>];
    for (const name of new Set([...Object.keys(a), ...Object.keys(b)])) {
      if (RELOADED_SETTINGS.includes(`${pattern}${name}`)) continue;
      if (!isDeepStrictEqual(a[name], b[name])) found.push(`${prefix}${name}`);
    }
  };
  compare(withoutSections(running), withoutSections(next), '');
  compare(withoutWebhook(running), withoutWebhook(next), 'responses.');
  compare(running.responses?.webhook ?? {}, next.responses?.webhook ?? {}, 'responses.webhook.');
  for (const section of SECTIONS) compare(running[section] ?? {}, next[section] ?? {}, `${section}.`);
  for (const [name, after] of Object.entries(next.providers)) {
    compare(running.providers[name] ?? {}, after, `providers.${name}.`, 'providers.*.');
  }
  return found;
}

function withoutSections({ providers, streams, deadlines, limits, redis, usage, responses, proxy, ...rest }: Config) {
  return rest;
}

function withoutWebhook({ responses }: Config) {
  const { webhook, ...rest } = responses ?? {};
  return rest;
}
