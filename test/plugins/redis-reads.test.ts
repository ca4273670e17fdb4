import slotOf from 'cluster-key-slot';
import type { Redis } from 'ioredis';
import { ReplyError } from 'ioredis';
import t from 'tap';
import { systemClock as clock } from '../../plugins/clock.ts';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { createClients } from '../../plugins/redis/clients.ts';
import { createReadQueue } from '../../plugins/redis/read-queue.ts';
import { RedisUnavailable } from '../../plugins/redis/timeout.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { noRedis } from '../redis.ts';
import { startRedisCluster } from '../redis-cluster.ts';
import { FakeRedis, settle } from './fake-redis.ts';

/** Large reads: a few at a time, on a connection of their own, on a clock turned by hand. */

const [CONCURRENT, TIMEOUT_MS] = [4, 1_000];

function setUp(redis = new FakeRedis()) {
  const clock = manualClock();
  const failures: string[] = [];
  const metrics = {
    redisFailures: { inc: ({ reason }: { reason: string }) => failures.push(reason) },
  } as unknown as Metrics;
  const queue = createReadQueue(redis as unknown as Redis, { clock, metrics });
  redis.status = 'ready';
  const sent: { reply(value: string): void; fail(error: Error): void }[] = [];
  const results: unknown[] = [];
  const read = (key = 'key') =>
    queue
      .read(key, () => new Promise<string>((reply, fail) => sent.push({ reply, fail })))
      .then(
        (value) => results.push(value),
        (error: unknown) => results.push(error),
      );
  return { clock, redis, queue, sent, results, read, failures };
}

t.test('a few are sent at a time, in order; the time of each begins when it is sent', async (t) => {
  const { clock, sent, results, read } = setUp();
  for (let i = 0; i < 10; i++) void read();
  t.equal(sent.length, CONCURRENT);
  for (let i = 0; i < 10; i++) {
    sent[i]?.reply(`reply ${i}`);
    await settle();
    clock.advance(TIMEOUT_MS / 5);
    await settle();
  }
  t.same(
    results,
    Array.from({ length: 10 }, (_, i) => `reply ${i}`),
    'although the last waited for seconds',
  );
  t.equal(clock.pending, 0);
});

t.test('a read without a reply in time fails, and the next one is sent', async (t) => {
  const { clock, redis, sent, results, read, failures } = setUp();
  for (let i = 0; i < CONCURRENT + 1; i++) void read();
  sent[0]?.reply('reply');
  await settle();
  clock.advance(TIMEOUT_MS);
  await settle();
  t.equal(results[0], 'reply');
  t.ok(results.slice(1).every((error) => error instanceof RedisUnavailable));
  t.same(new Set(failures), new Set(['read']));
  t.same(redis.disconnects, [true], 'a connection on which nothing is answered is opened again');
});

/** A client of a cluster of two nodes, of which one has the key `a` and the other has `b`. */
class FakeCluster extends FakeRedis {
  readonly slots = Array.from({ length: 16_384 }, (_, slot) => [slot === slotOf('a') ? 'h:1' : 'h:2', 'h:3']);
  readonly reopened: number[] = [];
  nodes(role: string) {
    if (role !== 'all') return [];
    return [1, 2, 3].map((port) => ({
      options: { host: 'h', port },
      disconnect: () => this.reopened.push(port),
    }));
  }
}

t.test('a node of a cluster that does not answer delays no reads of the others', async (t) => {
  const redis = new FakeCluster();
  const { clock, sent, results, read } = setUp(redis);
  for (let i = 0; i < CONCURRENT + 2; i++) void read('a');
  t.equal(sent.length, CONCURRENT);
  void read('b');
  t.equal(sent.length, CONCURRENT + 1, 'it is sent at once');
  sent.at(-1)?.reply('reply of b');
  await settle();
  t.same(results, ['reply of b']);
  clock.advance(TIMEOUT_MS);
  await settle();
  t.same(redis.reopened, [1], 'the connection to this node is opened again');
  t.same(redis.disconnects, [], 'and no other');
  clock.advance(TIMEOUT_MS);
  await settle();
  t.equal(results.length, 1 + CONCURRENT + 2, 'all reads of it have failed');
  void read('b');
  sent.at(-1)?.reply('again');
  await settle();
  t.equal(results.at(-1), 'again');
});

t.test('a real node of a cluster that hangs delays no reads of the others', { skip: noRedis }, async (t) => {
  const cluster = await startRedisCluster(t);
  const metrics = { redisFailures: { inc() {} } } as unknown as Metrics;
  const { reads } = createClients({ url: cluster.url, prefix: 'p', required: false }, { connectionName: 'n', clock });
  const queue = createReadQueue(reads, { clock, metrics });
  t.teardown(() => queue.close());
  queue.connect();
  await until(() => reads.status === 'ready', 'connected');
  const [hanging, working] = await Promise.all(['a', 'b'].map(async (key) => cluster.primaryOf(slotOf(key))));
  t.not(hanging?.port, working?.port);
  await cluster.client.set('b', 'value');
  t.equal(await queue.read('a', (redis) => redis.get('a')), null);
  hanging?.child.kill('SIGSTOP');
  const order: string[] = [];
  const ofHanging = Array.from({ length: 8 }, () =>
    queue
      .read('a', (redis) => redis.get('a'))
      .then(
        () => order.push('reply'),
        () => order.push('failed'),
      ),
  );
  await Promise.all(
    Array.from({ length: 20 }, async () => order.push(String(await queue.read('b', (redis) => redis.get('b'))))),
  );
  await Promise.all(ofHanging);
  t.same(order, [...Array(20).fill('value'), ...Array(8).fill('failed')], 'all replies come first');
  t.equal(await queue.read('b', (redis) => redis.get('b')), 'value');
  hanging?.child.kill('SIGCONT');
  await until(async () => {
    const reply = await queue.read('a', (redis) => redis.get('a')).catch(() => 'failed');
    return reply === null;
  }, 'it is read again');
});

t.test('replies in between show that the connection works', async (t) => {
  const { clock, redis, sent, read } = setUp();
  for (let i = 0; i < 10; i++) {
    for (let j = 0; j < CONCURRENT - 1; j++) void read();
    clock.advance(TIMEOUT_MS);
    await settle();
    void read();
    sent.at(-1)?.reply('reply');
    await settle();
  }
  t.same(redis.disconnects, []);
});

t.test('error replies are passed on; without a connection a read fails at once', async (t) => {
  const { redis, queue, sent, results, read, clock } = setUp();
  void read();
  sent[0]?.fail(new ReplyError('WRONGTYPE x'));
  await settle();
  t.ok(results[0] instanceof ReplyError);
  for (let i = 0; i < CONCURRENT + 2; i++) void read();
  redis.disconnect(true);
  await settle();
  t.equal(results.length, 3, 'those that wait for their turn fail when the connection closes');
  for (const { fail } of sent.slice(1)) fail(new Error('closed'));
  await settle();
  await t.rejects(
    queue.read('key', async () => t.fail('not sent')),
    RedisUnavailable,
  );
  queue.close();
  t.equal(clock.pending, 0);
});

t.test('the connection is opened once asked for, and its end rejects what waits', async (t) => {
  const { redis, queue, results, read } = setUp();
  t.equal(redis.connects, 0);
  queue.connect();
  t.equal(redis.connects, 1);
  redis.emit('error', new Error('an error is followed by the end of the connection'));
  for (let i = 0; i < CONCURRENT + 2; i++) void read();
  queue.close();
  await settle();
  t.same(redis.disconnects, [undefined], 'it is not opened again');
  t.equal(results.length, 2);
  t.ok(results.every((error) => error instanceof RedisUnavailable));
});
