import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import type { Cluster } from '../redis/index.ts';

/** Limits points per minute and owner, across all replicas. A request is one point; a token is one point. */
export interface RateLimiter {
  consume(owner: string, points: number): Promise<RateResult>;
  /** Charges points, even beyond the limit, or gives negative points back. */
  adjust(owner: string, points: number): void;
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

  /** Runs a call on the counter in Redis, or on the local one if Redis is unavailable. */
  const withFallback = async <T>(call: (limiter: RateLimiterMemory | RateLimiterRedis) => Promise<T>): Promise<T> => {
    if (cluster === undefined) return call(local);
    const { connection, key } = cluster;
    try {
      return await connection.run((redis) => {
        shared ??= new RateLimiterRedis({
          storeClient: redis,
          keyPrefix: key('limit', kind, String(points)),
          points,
          duration: MINUTE_S,
        });
        return call(shared);
      });
    } catch {
      onDegraded();
      return call(local);
    }
  };

  return {
    consume: (owner, wanted) =>
      withFallback(async (limiter) => {
        const { result, passed } = await consumePoints(limiter, owner, wanted);
        return { passed, remainingPoints: Math.max(0, result.remainingPoints), msBeforeNext: result.msBeforeNext };
      }),
    adjust(owner, difference) {
      void withFallback((limiter) =>
        difference > 0 ? limiter.penalty(owner, difference) : limiter.reward(owner, -difference),
      );
    },
  };
}

async function consumePoints(limiter: RateLimiterMemory | RateLimiterRedis, owner: string, points: number) {
  try {
    return { result: await limiter.consume(owner, points), passed: true };
  } catch (result) {
    if (result instanceof RateLimiterRes) return { result, passed: false };
    throw result;
  }
}
