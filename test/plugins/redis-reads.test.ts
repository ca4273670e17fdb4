import type { Redis } from 'ioredis';
import { ReplyError } from 'ioredis';
import t from 'tap';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { createReadQueue } from '../../plugins/redis/read-queue.ts';
import { RedisUnavailable } from '../../plugins/redis/timeout.ts';
import { manualClock } from '../manual-clock.ts';
import { FakeRedis, settle } from './fake-redis.ts';

/** Large reads: a few at a time, on a connection of their own, on a clock turned by hand. */

const [CONCURRENT, TIMEOUT_MS] = [4, 1_000];

function setUp() {
  const clock = manualClock();
  const redis = new FakeRedis();
  const failures: string[] = [];
  const metrics = {
    redisFailures: { inc: ({ reason }: { reason: string }) => failures.push(reason) },
  } as unknown as Metrics;
  const queue = createReadQueue(redis as unknown as Redis, { clock, metrics });
  redis.status = 'ready';
  const sent: { reply(value: string): void; fail(error: Error): void }[] = [];
  const results: unknown[] = [];
  const read = () =>
    queue
      .read(() => new Promise<string>((reply, fail) => sent.push({ reply, fail })))
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
    queue.read(async () => t.fail('not sent')),
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
