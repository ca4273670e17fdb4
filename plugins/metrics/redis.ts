import { Counter, Gauge, type Registry } from 'prom-client';

/** What replicas share, where they do. */
export function redisMetrics(registers: Registry[]) {
  return {
    redisUp: new Gauge({ name: 'sluice_redis_up', help: 'Whether Redis answers in time: 1, else 0', registers }),
    redisFailures: new Counter({
      name: 'sluice_redis_failures_total',
      help: 'Redis commands that failed: timeout, connection, oom (out of memory), reply (refused)',
      labelNames: ['reason'] as const,
      registers,
    }),
    streamsUnsynced: new Counter({
      name: 'sluice_streams_unsynced_total',
      help: 'Times that a stream went on without Redis, and could not be resumed elsewhere',
      registers,
    }),
    takeovers: new Counter({
      name: 'sluice_takeovers_total',
      help: 'Streams of a replica that died, taken over here: continued, lost',
      labelNames: ['outcome'] as const,
      registers,
    }),
  };
}
