import t from 'tap';
import { noRedis, startRedis } from '../redis.ts';
import { storeConformance } from './conformance.ts';
import { redisStore } from './redis-replica.ts';

t.test('conformance', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  storeConformance(t, async (t, settings) => {
    const { store } = await redisStore(t, redis, settings);
    /** Takes the time from the life of every key. */
    const age = async (ms: number) => {
      for (const key of await redis.client.keys('*:*')) {
        const left = await redis.client.pttl(key);
        t.ok(left > 0, `${key} has a time to live`);
        await redis.client.pexpire(key, left - ms);
      }
    };
    return { store, age };
  });
});
