import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import type { Cluster } from '../redis/index.ts';

/** So many points a minute, by owner, on all replicas. */
export interface RateLimiter {
  consume(owner: string, points: number): Promise<RateResult>;
  /** Takes points, or gives them back, without asking. */
  adjust(owner: string, points: number): void;
}

export interface RateResult {
  readonly passed: boolean;
  readonly remainingPoints: number;
  readonly msBeforeNext: number;
}

const MINUTE_S = 60;

/** `onDegraded`: Redis is away, and this replica grants its part alone. */
export function createRateLimiter(
  kind: string,
  points: number,
  shared: Cluster | undefined,
  replicas: number,
  onDegraded: () => void,
): RateLimiter {
  const localPoints = shared === undefined ? points : Math.ceil(points / replicas);
  const local = new RateLimiterMemory({ keyPrefix: kind, points: localPoints, duration: MINUTE_S });
  let inRedis: RateLimiterRedis | undefined;

  /** Runs a call on the shared counter, or else on the local one. */
  const withFallback = async <T>(call: (limiter: RateLimiterMemory | RateLimiterRedis) => Promise<T>): Promise<T> => {
    if (shared === undefined) return call(local);
    const { connection, key } = shared;
    try {
      return await connection.run((redis) => {
        inRedis ??= new RateLimiterRedis({
          storeClient: redis,
          keyPrefix: key('limit', kind, String(points)),
          points,
          duration: MINUTE_S,
        });
        return call(inRedis);
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
