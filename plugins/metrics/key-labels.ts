import type { Counter } from 'prom-client';
import { ANONYMOUS } from '../auth/identity.ts';
import { keyNameOf } from '../auth/owner.ts';

/** Values of the label `key` beside the names of keys, which begin with a letter or a digit. */
const WORDS = {
  /** Every subject of a token. */
  token: '_token',
  /** Everybody, if neither keys nor tokens are configured. */
  anonymous: '_anonymous',
  /** Nobody was identified: the route is public or unknown, or the credentials were refused. */
  none: '_none',
  /** A key that is not configured here, or was removed long ago. */
  unknown: '_unknown',
};

/** Removed keys that keep their series: answers may still run, and a last scrape has to see the end. */
export const MAX_REMOVED_KEYS = 100;

/** Bounds the values of the label `key` by the configuration. */
export interface KeyLabels {
  /** Returns the label of an owner; of nobody if it is undefined. */
  labelOf(owner: string | undefined): string;
  /** Replaces the names of the configured keys. Deletes the series of keys that were removed long ago. */
  configure(names: readonly string[]): void;
}

export function createKeyLabels(counters: readonly Counter<'key'>[]): KeyLabels {
  let configured: ReadonlySet<string> = new Set();
  /** Least recently removed first. */
  const removed = new Set<string>();

  return {
    labelOf(owner) {
      if (owner === undefined) return WORDS.none;
      if (owner === ANONYMOUS.owner) return WORDS.anonymous;
      const name = keyNameOf(owner);
      if (name !== undefined) return configured.has(name) || removed.has(name) ? name : WORDS.unknown;
      return owner.startsWith('jwt:') ? WORDS.token : WORDS.unknown;
    },
    configure(names) {
      const next = new Set(names);
      for (const name of configured) if (!next.has(name)) removed.add(name);
      for (const name of next) removed.delete(name);
      configured = next;
      const forgotten = [...removed].slice(0, Math.max(0, removed.size - MAX_REMOVED_KEYS));
      for (const name of forgotten) removed.delete(name);
      if (forgotten.length > 0) for (const counter of counters) deleteSeries(counter, new Set(forgotten));
    },
  };
}

/** Deletes all series of some keys. */
function deleteSeries(counter: Counter<'key'>, keys: ReadonlySet<unknown>): void {
  const onValues = ({ values }: Awaited<ReturnType<typeof counter.get>>) => {
    for (const { labels } of values) if (keys.has(labels.key)) counter.remove(labels);
  };
  // The promise is resolved already, and cannot reject.
  void counter.get().then(onValues);
}
