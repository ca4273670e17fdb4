import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import type { Cluster } from '../redis/index.ts';

/** Limits points per minute and owner, across all replicas. */
export interface RateLimiter {
  consume(owner: string, points: number): Promise<RateResult>;
}

export interface RateResult {
  readonly passed: boolean;
  readonly remainingPoints: number;
  /** Milliseconds until the window ends. */
  readonly msBeforeNext: number;
}

export interface RateLimiterOptions {
  /** Prefix that keeps the counters of two kinds apart. */
  readonly kind: string;
  /** Points per minute and owner. */
  readonly points: number;
  readonly cluster: Cluster | undefined;
  readonly expectedReplicas: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
}

const MINUTE_S = 60;

export function createRateLimiter(options: RateLimiterOptions): RateLimiter {
  const { kind, points, cluster, expectedReplicas, onDegraded } = options;
  const localPoints = cluster === undefined ? points : Math.ceil(points / expectedReplicas);
  const local = new RateLimiterMemory({ keyPrefix: kind, points: localPoints, duration: MINUTE_S });
  let shared: RateLimiterRedis | undefined;

  /** Runs a call on the counter in Redis. Rejects if Redis is unavailable. */
  const runShared = <T>({ connection, key }: Cluster, call: (limiter: RateLimiterRedis) => Promise<T>): Promise<T> =>
    connection.run((redis) => {
      shared ??= new RateLimiterRedis({
        storeClient: redis,
        keyPrefix: key('limit', kind, String(points)),
        points,
        duration: MINUTE_S,
      });
      return call(shared);
    });

  return {
    async consume(owner, wanted) {
      if (cluster === undefined) return consumePoints(local, owner, wanted);
      try {
        return await runShared(cluster, (limiter) => consumePoints(limiter, owner, wanted));
      } catch {
        onDegraded();
        return consumePoints(local, owner, wanted);
      }
    },
  };
}

type Counter = RateLimiterMemory | RateLimiterRedis;

async function consumePoints(counter: Counter, owner: string, points: number): Promise<RateResult> {
  try {
    return { passed: true, ...remainder(await counter.consume(owner, points)) };
  } catch (result) {
    if (result instanceof RateLimiterRes) return { passed: false, ...remainder(result) };
    throw result;
  }
}

function remainder({ remainingPoints, msBeforeNext }: RateLimiterRes) {
  return { remainingPoints: Math.max(0, remainingPoints), msBeforeNext };
}
