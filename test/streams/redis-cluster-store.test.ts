import t from 'tap';
import { until } from '../helper.ts';
import { noRedis, type RedisServer } from '../redis.ts';
import { ageKey, startRedisCluster } from '../redis-cluster.ts';
import { storeConformance } from './conformance.ts';
import { redisStore } from './redis-replica.ts';

t.test('in a Redis Cluster', { skip: noRedis }, async (t) => {
  const cluster = await startRedisCluster(t);

  t.test(
    'messages between replicas arrive, also when the slot of a channel has moved or its node is cut off',
    async (t) => {
      const prefix = 'messages';
      const [a, b] = [await redisStore(t, cluster, {}, prefix), await redisStore(t, cluster, {}, prefix)];
      const received: unknown[] = [];
      let subscriptions = 0;
      b.cluster.mailbox.on('test', (from, body) => received.push([from, body]));
      b.cluster.mailbox.onSubscribed(() => {
        subscriptions += 1;
      });
      const assertArrives = async (body: string) => {
        await until(() => b.cluster.mailbox.subscribedForMs > 0, 'it is subscribed');
        a.cluster.mailbox.send(b.cluster.replica, 'test', body);
        await until(() => received.length > 0, 'the message arrives');
        t.same(received.splice(0), [[a.cluster.replica, body]], body);
      };
      await assertArrives('at first');
      const slot = await cluster.slotOf(`${prefix}:to:${b.cluster.replica}`);
      const from = await cluster.primaryOf(slot);
      const to = cluster.primaries.find((node) => node !== from) as RedisServer;
      await cluster.moveSlot(slot, to);
      await until(() => subscriptions > 0, 'it subscribes at the new node');
      await assertArrives('after the slot has moved');
      await to.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      await until(() => subscriptions > 1, 'it subscribes again');
      await assertArrives('after a lost connection');
      // Plain messages would load every node.
      const stats = await Promise.all(cluster.primaries.map(({ client }) => client.info('commandstats')));
      t.notMatch(stats.join(), /cmdstat_(publish|subscribe)/, 'messages go to the nodes of a slot alone');
    },
  );

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
