import { Counter, Gauge, type Registry } from 'prom-client';

/** Metrics of Redis and of streams that replicas share. */
export function redisMetrics(registers: Registry[]) {
  return {
    redisUp: new Gauge({
      name: 'sluice_redis_up',
      help: '1 if streams can be shared through Redis, else 0',
      registers,
    }),
    redisFailures: new Counter({
      name: 'sluice_redis_failures_total',
      help: 'Redis commands that failed, by reason: timeout, read (timeout of a large read), connection, oom (out of memory), reply (other error replies)',
      labelNames: ['reason'] as const,
      registers,
    }),
    streamsUnsynced: new Counter({
      name: 'sluice_streams_unsynced_total',
      help: 'Times that a stream continued without Redis and could not be resumed on other replicas',
      registers,
    }),
    takeovers: new Counter({
      name: 'sluice_takeovers_total',
      help: 'Streams of dead replicas that this replica took over, by outcome: continued, lost',
      labelNames: ['outcome'] as const,
      registers,
    }),
  };
}
