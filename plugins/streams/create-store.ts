import type { Clock } from '../clock.ts';
import type { Config } from '../config/index.ts';
import type { Metrics } from '../metrics/index.ts';
import type { Cluster } from '../redis/index.ts';
import type { AnswerArchive } from './answer-archive.ts';
import { MemoryStore } from './memory/store.ts';
import { RedisStore } from './redis/store.ts';
import type { StreamStore } from './types.ts';

export interface StoreOptions {
  readonly settings: Pick<Config['streams'], 'highWaterMark' | 'flushMs' | 'graceMs' | 'ttlMs' | 'maxTotalBytes'>;
  /** Longest time in milliseconds that an answer may take. */
  longestAnswerMs(): number;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly cluster: Cluster | undefined;
  readonly archive?: AnswerArchive | undefined;
}

/** Creates the store in Redis if it is configured, else in memory. */
export function createStore(options: StoreOptions): StreamStore {
  const { settings, longestAnswerMs, clock, metrics, cluster, archive } = options;
  const common = { ...settings, clock, archive, onEvicted: () => metrics.streamsEvicted.inc() };
  if (cluster === undefined) return new MemoryStore(common);
  // After a takeover an answer may take its full time again.
  return new RedisStore({ ...common, cluster, metrics, maxLogMs: () => 2 * longestAnswerMs() + settings.graceMs });
}
