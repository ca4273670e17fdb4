import type { FastifyInstance } from 'fastify';
import { MemoryStore } from './memory/store.ts';
import { RedisStore } from './redis/store.ts';
import type { StreamStore } from './types.ts';

/** In this process, or in Redis where the configuration names one. */
export function createStore({ config, clock, metrics, cluster }: FastifyInstance): StreamStore {
  const options = { ...config.streams, clock, onEvicted: () => metrics.streamsEvicted.inc() };
  if (cluster === undefined) return new MemoryStore(options);
  const longest = Math.max(config.deadlines.totalMs, ...config.models.map(({ totalMs = 0 }) => totalMs));
  // A log that is taken over begins a second time.
  return new RedisStore({ ...options, shared: cluster, metrics, longestMs: 2 * longest + config.streams.graceMs });
}
