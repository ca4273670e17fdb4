import type { Cluster } from '../redis/index.ts';
import { defineScript, runScript } from '../redis/script.ts';

/**
 * Answers at once, by owner, on all replicas. Each replica says how many of an owner's run there, and
 * what a dead one said does not count.
 */
export interface ConcurrencyLimiter {
  /** Whether there is a place; if so, it is taken. */
  reserve(owner: string, max: number): Promise<boolean>;
  release(owner: string): void;
}

/** Nothing runs for so long: what is left behind goes then. */
const COUNT_TTL_MS = 86_400_000;

/** KEYS counts. ARGV replica, its count, most, what leases begin with, time to live. */
const RESERVE = defineScript(`
local sum = tonumber(ARGV[2])
local counts = redis.call('HGETALL', KEYS[1])
for i = 1, #counts, 2 do
  if counts[i] ~= ARGV[1] then
    if redis.call('EXISTS', ARGV[4] .. counts[i]) == 1 then sum = sum + tonumber(counts[i + 1])
    else redis.call('HDEL', KEYS[1], counts[i]) end
  end
end
if sum > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
`);

/** KEYS counts. ARGV replica, its count. */
const PUBLISH = defineScript(`
if tonumber(ARGV[2]) == 0 then redis.call('HDEL', KEYS[1], ARGV[1])
elseif redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
`);

/** `onDegraded`: Redis is away, and this replica grants its part alone. */
export function createConcurrencyLimiter(
  shared: Cluster | undefined,
  replicas: number,
  onDegraded: () => void,
): ConcurrencyLimiter {
  const counts = new Map<string, number>();

  const add = (owner: string, difference: number): number => {
    const count = (counts.get(owner) ?? 0) + difference;
    if (count > 0) counts.set(owner, count);
    else counts.delete(owner);
    return count;
  };

  /** Owners of whom the others have not heard yet that some have ended. */
  const unpublished = new Set<string>();
  const publishCount = async (owner: string, { connection, replica, key }: Cluster) => {
    const args = [replica, counts.get(owner) ?? 0];
    await connection.run((redis) => runScript(redis, PUBLISH, [key('running', owner)], args));
    unpublished.delete(owner);
  };
  shared?.lease.onRenewed(() => {
    for (const owner of unpublished) publishCount(owner, shared).catch(() => {});
  });

  const release = (owner: string) => {
    add(owner, -1);
    if (shared === undefined) return;
    unpublished.add(owner);
    publishCount(owner, shared).catch(() => {}); // Said again with the next renewal.
  };

  const reserveInRedis = async (
    { connection, replica, key, leaseKey }: Cluster,
    owner: string,
    count: number,
    most: number,
  ) => {
    const args = [replica, count, most, leaseKey(''), COUNT_TTL_MS];
    return (await connection.run((redis) => runScript(redis, RESERVE, [key('running', owner)], args))) === 1;
  };

  return {
    async reserve(owner, most) {
      const count = add(owner, 1);
      let passed = count <= most;
      if (passed && shared !== undefined) {
        passed = await reserveInRedis(shared, owner, count, most).catch(() => {
          onDegraded();
          return count <= Math.ceil(most / replicas);
        });
      }
      if (!passed) release(owner);
      return passed;
    },
    release,
  };
}
