import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import type { Shared } from '../redis/index.ts';

/** So many points a minute, by owner, on all replicas. */
export interface Rate {
  take(owner: string, points: number): Promise<Taken>;
  /** Takes points, or gives them back, without asking. */
  correct(owner: string, points: number): void;
}

export interface Taken {
  readonly passed: boolean;
  readonly remainingPoints: number;
  readonly msBeforeNext: number;
}

const MINUTE_S = 60;

/** `onDegraded`: Redis is away, and this replica grants its part alone. */
export function createRate(
  kind: string,
  points: number,
  shared: Shared | undefined,
  replicas: number,
  onDegraded: () => void,
): Rate {
  const part = shared === undefined ? points : Math.ceil(points / replicas);
  const local = new RateLimiterMemory({ keyPrefix: kind, points: part, duration: MINUTE_S });
  let inRedis: RateLimiterRedis | undefined;

  /** Runs a call on the shared counter, or else on the local one. */
  const on = async <T>(call: (limiter: RateLimiterMemory | RateLimiterRedis) => Promise<T>): Promise<T> => {
    if (shared === undefined) return call(local);
    const { link, key } = shared;
    try {
      return await link.ask((redis) => {
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
    take: (owner, wanted) =>
      on(async (limiter) => {
        const { result, passed } = await consume(limiter, owner, wanted);
        return { passed, remainingPoints: Math.max(0, result.remainingPoints), msBeforeNext: result.msBeforeNext };
      }),
    correct(owner, difference) {
      void on((limiter) => (difference > 0 ? limiter.penalty(owner, difference) : limiter.reward(owner, -difference)));
    },
  };
}

async function consume(limiter: RateLimiterMemory | RateLimiterRedis, owner: string, points: number) {
  try {
    return { result: await limiter.consume(owner, points), passed: true };
  } catch (result) {
    if (result instanceof RateLimiterRes) return { result, passed: false };
    throw result;
  }
}
