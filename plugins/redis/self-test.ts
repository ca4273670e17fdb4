import type { Redis } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { ProbedConnection } from './connection.ts';
import type { RedisHealth } from './health.ts';
import { channelRight, isPartialRefusal, missingRight, type Problem, problem, reasonOf } from './problems.ts';
import { isReplyError } from './reply-error.ts';

/**
 * Finds out what the user may not do, before a stream depends on it: runs every command that Sluice uses on a key
 * of its own. Says so once, with everything that is missing.
 */
export interface SelfTest {
  /** Asks for a run: the rights may have changed. */
  request(): void;
  /** Runs after a connect, after a request, and again while there is a problem, with growing pauses. */
  runIfDue(): Promise<void>;
}

export interface SelfTestOptions {
  readonly connection: ProbedConnection;
  readonly health: RedisHealth;
  readonly clock: Clock;
  /** Key that the commands use, with a hash tag. Expires within a second. */
  readonly key: string;
  /** Channel of this replica. */
  readonly channel: string;
  /** Prefix of all keys and channels. */
  readonly prefix: string;
  /** Number of the database. */
  readonly database: number;
  /** True if messages are published to the nodes of a slot. */
  readonly isSharded?: boolean;
}

type Command = readonly [name: string, ...args: (string | number)[]];

const MIN_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 10_000;

/** Returns all commands that Sluice sends, in an order in which the key has the type that each needs. */
function commandsOn({ key, channel, database, isSharded = false }: SelfTestOptions): Command[] {
  return [
    ...(database === 0 ? [] : [['select', database] as const]),
    ['set', key, 1, 'PX', 1_000],
    ['get', key],
    ['incrby', key, 1],
    ['pttl', key],
    ['expire', key, 1],
    ['exists', key],
    ['del', key],
    ['hset', key, 'f', 1],
    ['hget', key, 'f'],
    ['hmget', key, 'f'],
    ['hgetall', key],
    ['hincrby', key, 'f', 1],
    ['pexpire', key, 1_000],
    ['hdel', key, 'f'],
    ['xadd', key, 'NOMKSTREAM', '1-1', 'f', 1],
    ['xrange', key, '-', '+', 'COUNT', 1],
    ['xrevrange', key, '+', '-', 'COUNT', 1],
    ['del', key],
    ['zadd', key, 1, 'm'],
    ['zcard', key],
    ['zrange', key, 0, 0],
    ['zrangebyscore', key, 0, 1],
    ['zrem', key, 'm'],
    ['eval', 'return 1', 2, key, `${key}:2`],
    ['evalsha', '0'.repeat(40), 1, key],
    ['time'],
    [isSharded ? 'spublish' : 'publish', channel, '[]'],
  ];
}

export function createSelfTest(options: SelfTestOptions): SelfTest {
  const { connection, health, clock, prefix } = options;
  let isDue = true;
  let isRunning = false;
  let runAt = Number.NEGATIVE_INFINITY;
  let pauseMs = 0;

  /** Returns the code word of a refusal, and what is missing if it is a right. */
  const test = async (redis: Redis): Promise<Problem | undefined> => {
    const missing = new Set<string>();
    let other: string | undefined;
    const replies = commandsOn(options).map(async ([name, ...args]) => {
      try {
        await redis.call(name, ...args);
      } catch (error) {
        if (!isReplyError(error)) throw error;
        const reason = reasonOf(error);
        // The mailbox reports channels: without them, streams that are in Redis already are still written.
        if (reason === 'NOPERM') missing.add(missingRight(name, error as Error, prefix));
        else if (isPartialRefusal(reason)) other ??= reason;
      }
    });
    await Promise.all(replies);
    // While a slot of a cluster moves, redirected commands change their order. The key would be left without an end.
    redis.call('del', options.key).catch(() => {});
    missing.delete(channelRight(prefix));
    if (missing.size > 0) return problem('NOPERM', [...missing]);
    return other === undefined ? undefined : problem(other);
  };

  const run = async () => {
    isDue = false;
    isRunning = true;
    runAt = clock.now();
    try {
      const found = await connection.probe(test);
      pauseMs = found ? Math.min(MAX_PAUSE_MS, Math.max(MIN_PAUSE_MS, 2 * pauseMs)) : 0;
      health.report('rights', found);
      isDue ||= found !== undefined;
    } catch {
      isDue = true; // Not connected; the next renewal of the lease runs it again.
    } finally {
      isRunning = false;
    }
  };

  return {
    request() {
      isDue = true;
    },
    async runIfDue() {
      if (isDue && !isRunning && clock.now() - runAt >= pauseMs) await run();
    },
  };
}
