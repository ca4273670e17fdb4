import t from 'tap';
import { noRedis } from '../redis.ts';
import { ageKey, startRedisCluster } from '../redis-cluster.ts';
import { storeConformance } from './conformance.ts';
import { redisStore } from './redis-replica.ts';

t.test('the Redis store passes the tests of every store in a cluster', { skip: noRedis }, async (t) => {
  const cluster = await startRedisCluster(t);
  storeConformance(t, async (t, settings) => {
    const { store } = await redisStore(t, cluster, settings);
    /** Shortens the time to live of every key. */
    const age = async (ms: number) => {
      for (const key of await cluster.keys('*:*')) {
        t.not(await ageKey(cluster.client, key, ms), -1, `${key} has a time to live`);
      }
    };
    return { store, age, keepsEvictedLogs: true };
  });
});
