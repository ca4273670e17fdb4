import { RateLimiterRedis } from 'rate-limiter-flexible';
import type { Cluster } from '../redis/index.ts';
import { type WindowCount, WindowCounter } from '../window-counter.ts';

/**
 * Counts requests per minute and owner, across all replicas. An owner has one counter, whatever its limit: the limit
 * is compared with the count at each request, so a changed limit does not reset what was used.
 */
export interface RateLimiter {
  /** Counts a request, also one beyond the limit. */
  count(owner: string, limit: number): Promise<RateResult>;
}

export interface RateResult {
  readonly passed: boolean;
  /** Requests that are left in the window. */
  readonly remaining: number;
  /** Requests in the window beyond the limit, this one included. */
  readonly excess: number;
  /** Milliseconds until the window ends. */
  readonly msBeforeNext: number;
}

export interface RateLimiterOptions {
  readonly cluster: Cluster | undefined;
  readonly expectedReplicas: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
}

const MINUTE_S = 60;
/** Owners that are counted in this process at least. Beyond twice as many, those with the oldest requests are forgotten. */
const MAX_OWNERS = 100_000;

export function createRateLimiter({ cluster, expectedReplicas, onDegraded }: RateLimiterOptions): RateLimiter {
  const local = new WindowCounter(MINUTE_S * 1_000, MAX_OWNERS);
  let shared: RateLimiterRedis | undefined;

  /** Counts in Redis. Rejects if Redis is unavailable. */
  const countShared = ({ connection, key }: Cluster, owner: string): Promise<WindowCount> =>
    connection.run(async (redis) => {
      shared ??= new RateLimiterRedis({
        storeClient: redis,
        keyPrefix: key('limit', 'requests'),
        // The limit of the owner is compared here, not by the library, which has one for all.
        points: Number.MAX_SAFE_INTEGER,
        duration: MINUTE_S,
      });
      const { consumedPoints: count, msBeforeNext } = await shared.consume(owner, 1);
      return { count, msBeforeNext };
    });

  return {
    async count(owner, limit) {
      if (cluster === undefined) return compare(local.add(owner), limit);
      try {
        return compare(await countShared(cluster, owner), limit);
      } catch {
        onDegraded();
        return compare(local.add(owner), Math.ceil(limit / expectedReplicas));
      }
    },
  };
}

function compare({ count, msBeforeNext }: WindowCount, limit: number): RateResult {
  const remaining = Math.max(0, limit - count);
  return { passed: count <= limit, remaining, excess: Math.max(0, count - limit), msBeforeNext };
}
