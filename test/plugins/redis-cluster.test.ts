import Fastify from 'fastify';
import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import clockPlugin from '../../plugins/clock.ts';
import type { Metrics } from '../../plugins/metrics/index.ts';
import redisPlugin, { type Cluster } from '../../plugins/redis/index.ts';
import { captureLog, until } from '../helper.ts';
import { freePort, noRedis, startRedis } from '../redis.ts';

/** The plugin that connects a replica to Redis. */

const ignored = { inc() {}, set() {} };
const metrics = { redisUp: ignored, redisFailures: ignored } as unknown as Metrics;

/** Starts the plugin on a bare Fastify. */
async function start(t: Test, url: string | undefined) {
  const { logTo, log } = captureLog();
  const app = Fastify({ logger: { stream: logTo } });
  await app.register(clockPlugin);
  app.decorate('metrics', metrics);
  await app.register(
    Object.assign(async () => {}, {
      [Symbol.for('skip-override')]: true,
      [Symbol.for('fastify.display-name')]: 'metrics',
      [Symbol.for('plugin-meta')]: { name: 'metrics' },
    }),
  );
  await app.register(redisPlugin, { redis: url === undefined ? undefined : { url, prefix: 'p', required: false } });
  await app.ready();
  let isClosed = false;
  const close = async () => {
    if (!isClosed) await app.close();
    isClosed = true;
  };
  t.teardown(close);
  return { cluster: app.cluster as Cluster, log, close };
}

t.test('without a configured Redis there is no cluster', async (t) => {
  const { cluster } = await start(t, undefined);
  t.equal(cluster, undefined);
});

t.test('with Redis', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);

  t.test('each replica has an id, a lease and keys under the prefix', async (t) => {
    const [a, b] = [await start(t, redis.url), await start(t, redis.url)];
    for (const { cluster, log } of [a, b]) {
      t.match(cluster.replica, /^[\w-]{12}$/);
      t.equal(cluster.key('x', 'y'), 'p:x:y');
      t.equal(cluster.leaseKey('r'), 'p:{replica}:r');
      t.equal(cluster.connection.isAvailable, true, 'connected when the plugin is ready');
      t.notMatch(log(), 'unavailable');
      await until(() => cluster.lease.isHeld, 'the lease is held');
      t.ok((await redis.client.pttl(cluster.leaseKey(cluster.replica))) > 0, 'the lease expires');
    }
    t.not(a.cluster.replica, b.cluster.replica);
    const names = String(await redis.client.client('LIST'));
    for (const { cluster } of [a, b]) t.match(names, `name=sluice-${cluster.replica}`, 'operators see whose it is');

    const received: unknown[] = [];
    b.cluster.mailbox.on('kind', (from, body) => received.push([from, body]));
    await until(() => b.cluster.mailbox.subscribedForMs > 0, 'B is subscribed');
    a.cluster.mailbox.send(b.cluster.replica, 'kind', { x: 1 });
    await until(() => received.length > 0, 'the message arrives');
    t.same(received, [[a.cluster.replica, { x: 1 }]]);

    await a.close();
    t.equal(await redis.client.exists(a.cluster.leaseKey(a.cluster.replica)), 0, 'a closed replica has no lease');
    t.equal(await redis.client.exists(b.cluster.leaseKey(b.cluster.replica)), 1);
    await until(
      async () => !String(await redis.client.client('LIST')).includes(a.cluster.replica),
      'its connections are closed',
    );
  });

  t.test('a connection to a server that became a replica is opened again', async (t) => {
    const { cluster } = await start(t, redis.url);
    const id = async () => {
      const names = String(await redis.client.client('LIST')).split('\n');
      return /id=(\d+)/.exec(
        names.find((line) => line.includes(cluster.replica) && line.includes('cmd=set')) ?? '',
      )?.[1];
    };
    await until(async () => (await id()) !== undefined, 'the lease is renewed');
    const before = await id();
    await redis.client.call('REPLICAOF', '127.0.0.1', String(await freePort()));
    await until(async () => ![undefined, before].includes(await id()), 'a new connection is open');
    await redis.client.call('REPLICAOF', 'NO', 'ONE');
    await until(() => cluster.connection.isAvailable, 'Redis is available again');
  });
});

t.test('a Redis that does not run: the replica starts, says so, and connects later', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  await redis.stop();
  const { cluster, log } = await start(t, redis.url);
  t.equal(cluster.connection.isAvailable, false);
  t.match(log(), '"reason":"ECONNREFUSED"');
  t.match(log(), 'redis unavailable at start');
  await t.rejects(
    cluster.connection.run(async (client: Redis) => client.ping()),
    { name: 'RedisUnavailable' },
    'no command waits for the connection',
  );
  await redis.start();
  await until(() => cluster.connection.isAvailable, 'Redis is available');
  await until(() => cluster.lease.isHeld, 'the lease is held');
});
