import t from 'tap';
import { noRedis, startRedis } from '../redis.ts';
import { storeConformance } from './conformance.ts';
import { redisStore } from './redis-replica.ts';

t.test('the Redis store passes the tests of every store', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  storeConformance(t, async (t, settings) => {
    const { store } = await redisStore(t, redis, settings);
    /** Shortens the time to live of every key. */
    const age = async (ms: number) => {
      for (const key of await redis.client.keys('*:*')) {
        const remainingMs = await redis.client.pttl(key);
        if (remainingMs === -2) continue; // It has expired since it was listed.
        t.not(remainingMs, -1, `${key} has a time to live`);
        await redis.client.pexpire(key, remainingMs - ms);
      }
    };
    return { store, age, keepsEvictedLogs: true };
  });
});
