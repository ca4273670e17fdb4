import type { Shared } from '../redis/index.ts';
import { run, script } from '../redis/script.ts';

/**
 * Answers at once, by owner, on all replicas. Each replica says how many of an owner's run there, and
 * what a dead one said does not count.
 */
export interface Running {
  /** Whether there is a place; if so, it is taken. */
  take(owner: string, most: number): Promise<boolean>;
  release(owner: string): void;
}

/** Nothing runs for so long: what is left behind goes then. */
const KEPT_MS = 86_400_000;

/** KEYS counts. ARGV replica, its count, most, what leases begin with, time to live. */
const TAKE = script(`
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
const SAY = script(`
if tonumber(ARGV[2]) == 0 then redis.call('HDEL', KEYS[1], ARGV[1])
elseif redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
`);

/** `onDegraded`: Redis is away, and this replica grants its part alone. */
export function createRunning(shared: Shared | undefined, replicas: number, onDegraded: () => void): Running {
  const counts = new Map<string, number>();

  const add = (owner: string, difference: number): number => {
    const count = (counts.get(owner) ?? 0) + difference;
    if (count > 0) counts.set(owner, count);
    else counts.delete(owner);
    return count;
  };

  /** Owners of whom the others have not heard yet that some have ended. */
  const unsaid = new Set<string>();
  const say = async (owner: string, { link, replica, key }: Shared) => {
    const args = [replica, counts.get(owner) ?? 0];
    await link.ask((redis) => run(redis, SAY, [key('running', owner)], args));
    unsaid.delete(owner);
  };
  shared?.lease.onRenewed(() => {
    for (const owner of unsaid) say(owner, shared).catch(() => {});
  });

  const release = (owner: string) => {
    add(owner, -1);
    if (shared === undefined) return;
    unsaid.add(owner);
    say(owner, shared).catch(() => {}); // Said again with the next renewal.
  };

  const takeShared = async ({ link, replica, key, leaseOf }: Shared, owner: string, count: number, most: number) => {
    const args = [replica, count, most, leaseOf(''), KEPT_MS];
    return (await link.ask((redis) => run(redis, TAKE, [key('running', owner)], args))) === 1;
  };

  return {
    async take(owner, most) {
      const count = add(owner, 1);
      let passed = count <= most;
      if (passed && shared !== undefined) {
        passed = await takeShared(shared, owner, count, most).catch(() => {
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
