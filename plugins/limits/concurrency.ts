import type { Cluster } from '../redis/index.ts';
import { loadScript, runScript } from '../redis/script.ts';

/**
 * Limits concurrent generations by owner, across all replicas. Each replica publishes its own count;
 * counts of dead replicas are ignored.
 */
export interface ConcurrencyLimiter {
  /** Reserves a slot. Resolves with false if the limit is reached. */
  reserve(owner: string, max: number): Promise<boolean>;
  release(owner: string): void;
}

/** Longer than any generation. Counts of dead replicas expire after this time. */
const COUNT_TTL_MS = 86_400_000;

const RESERVE = loadScript(new URL('./scripts/reserve.lua', import.meta.url));
const PUBLISH = loadScript(new URL('./scripts/publish.lua', import.meta.url));

/** `onDegraded` is called when Redis is unavailable and this replica grants its share alone. */
export function createConcurrencyLimiter(
  cluster: Cluster | undefined,
  expectedReplicas: number,
  onDegraded: () => void,
): ConcurrencyLimiter {
  const counts = new Map<string, number>();
  /** Owners whose count Redis may not have. */
  const unpublished = new Set<string>();

  const add = (owner: string, difference: number): number => {
    const count = (counts.get(owner) ?? 0) + difference;
    if (count > 0) counts.set(owner, count);
    else counts.delete(owner);
    return count;
  };

  const publishCount = async (owner: string, { connection, replica, key }: Cluster) => {
    const count = counts.get(owner) ?? 0;
    const args = [replica, count, COUNT_TTL_MS];
    await connection.run((redis) => runScript(redis, PUBLISH, [key('running', owner)], args));
    if (count === (counts.get(owner) ?? 0)) unpublished.delete(owner);
  };
  /** Redis was emptied, or restored from a snapshot. */
  const onLost = () => {
    for (const owner of counts.keys()) unpublished.add(owner);
  };
  cluster?.lease.onMissing(onLost);
  cluster?.connection.onAvailable(onLost);
  cluster?.lease.onRenewed(() => {
    for (const owner of unpublished) publishCount(owner, cluster).catch(() => {});
  });

  const release = (owner: string) => {
    add(owner, -1);
    if (cluster === undefined) return;
    unpublished.add(owner);
    publishCount(owner, cluster).catch(() => {}); // Retried at the next renewal of the lease.
  };

  const reserveInRedis = async ({ connection, replica, key, leaseKey }: Cluster, owner: string, max: number) => {
    let dead: string[] = [];
    for (;;) {
      const args = [replica, counts.get(owner) ?? 0, max, COUNT_TTL_MS, ...dead];
      const found = await connection.run((redis) => runScript(redis, RESERVE, [key('running', owner)], args));
      if (found === 1) return true;
      const others = found as string[];
      const leases = await connection.query((redis) =>
        Promise.all(others.map((other) => redis.exists(leaseKey(other)))),
      );
      dead = others.filter((_, i) => leases[i] === 0);
      if (dead.length === 0) return false;
    }
  };

  return {
    async reserve(owner, max) {
      const count = add(owner, 1);
      let passed = count <= max;
      if (passed && cluster !== undefined) {
        passed = await reserveInRedis(cluster, owner, max).catch(() => {
          onDegraded();
          unpublished.add(owner);
          return count <= Math.ceil(max / expectedReplicas);
        });
      }
      if (!passed) release(owner);
      return passed;
    },
    release,
  };
}
