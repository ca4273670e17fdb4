import type { Redis } from 'ioredis';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { createRedisConnection } from '../../plugins/redis/connection.ts';
import { createHealth } from '../../plugins/redis/health.ts';
import { createLease } from '../../plugins/redis/lease.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { FakeRedis, settle } from './fake-redis.ts';

/** The connection and the lease of a replica, on a clock turned by hand and a client whose replies the test decides. */
export function createRedisParts({ isCluster = false } = {}) {
  const clock: ManualClock = manualClock();
  const redis = new FakeRedis();
  const failures: string[] = [];
  const up: number[] = [];
  const warnings: { reason: string }[] = [];
  const infos: string[] = [];
  const metrics = {
    redisUp: { set: (value: number) => up.push(value) },
    redisFailures: { inc: ({ reason }: { reason: string }) => failures.push(reason) },
  } as unknown as Metrics;
  const log = {
    warn: (entry: { reason: string }) => warnings.push(entry),
    info: (text: string) => infos.push(text),
  } as never;
  const health = createHealth({ metrics, log });
  const reads = { read: () => Promise.reject(new Error('not used')), connect() {}, close() {} };
  const connection = createRedisConnection(redis as unknown as Redis, { clock, metrics, health, reads, isCluster });
  let selfTests = 0;
  const selfTest = {
    request: () => {
      selfTests += 1;
    },
    async runIfDue() {},
  };
  const lease = createLease({ connection, health, selfTest, clock, key: 'the lease' });
  health.report('rights', undefined);
  health.report('mailbox', undefined);
  health.startLog();
  let available = 0;
  connection.onAvailable(() => {
    available += 1;
  });
  return {
    clock,
    redis,
    connection,
    health,
    lease,
    failures,
    up,
    warnings,
    infos,
    /** Number of times that Redis became available. */
    available: () => available,
    /** Number of self-tests that were asked for. */
    selfTests: () => selfTests,
    /** Connects; Redis replies to the lease as the test has decided. */
    open: async () => {
      redis.open();
      await settle();
    },
    /** Advances the clock in steps and lets everything settle after each. */
    advance: async (ms: number, stepMs = 50) => {
      for (let left = ms; left > 0; left -= stepMs) {
        clock.advance(Math.min(left, stepMs));
        await settle();
      }
    },
  };
}
