import { RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import type { Cluster } from '../redis/index.ts';

/** Limits points per minute and owner, across all replicas. A request is one point; a token is one point. */
export interface RateLimiter {
  consume(owner: string, points: number): Promise<RateResult>;
}

export interface RateResult {
  readonly passed: boolean;
  readonly remainingPoints: number;
  /** Milliseconds until the window ends. */
  readonly msBeforeNext: number;
  /**
   * Charges more points, even beyond the limit, or gives negative points back. Points are given back only to
   * the counter that was charged: the local one, or the one in Redis.
   */
  adjust(points: number): void;
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

  // A negative penalty gives points back.
  const consumeLocal = async (owner: string, wanted: number): Promise<RateResult> => ({
    ...(await consumePoints(local, owner, wanted)),
    adjust: (difference) => void local.penalty(owner, difference),
  });

  return {
    async consume(owner, wanted) {
      if (cluster === undefined) return consumeLocal(owner, wanted);
      try {
        const result = await runShared(cluster, (limiter) => consumePoints(limiter, owner, wanted));
        const adjust = (difference: number) => {
          runShared(cluster, (limiter) => limiter.penalty(owner, difference)).catch(() => {
            if (difference > 0) void local.penalty(owner, difference);
          });
        };
        return { ...result, adjust };
      } catch {
        onDegraded();
        return consumeLocal(owner, wanted);
      }
    },
  };
}

type Counter = RateLimiterMemory | RateLimiterRedis;

async function consumePoints(counter: Counter, owner: string, points: number): Promise<Omit<RateResult, 'adjust'>> {
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
