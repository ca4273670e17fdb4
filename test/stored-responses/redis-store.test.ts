import type { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { RedisResponses } from '../../plugins/responses/redis-store.ts';
import type { SavedQuestion } from '../../plugins/responses/types.ts';
import { createRedisQueue } from '../../plugins/webhooks/redis-queue.ts';
import { until } from '../helper.ts';
import { noRedis, startRedis } from '../redis.ts';

/** The store of responses and the queue of webhooks on a Redis that can refuse, without the rest of the service. */

const HOUR = 3_600_000;
const CLAIM_MS = 20_000;

const key = (...names: string[]) => ['sluice', ...names].join(':');
const streamKey = (kind: string, id: string) => key(kind, `{${id}}`);

t.test('with Redis', { skip: noRedis }, async (t) => {
  const server = await startRedis(t);
  const { client } = server;
  t.beforeEach(() => client.flushall());

  /** A connection that can be taken away. */
  function createCluster() {
    const state = { isAvailable: true, renew: () => {} };
    const call = async <T>(command: (redis: Redis) => Promise<T>): Promise<T> => {
      if (!state.isAvailable) throw new Error('unavailable');
      return command(client);
    };
    const connection = { run: call, read: (_key: string, command: Parameters<typeof call>[0]) => call(command) };
    const lease = {
      onRenewed(listener: () => void) {
        state.renew = listener;
      },
    };
    return { state, cluster: { connection, lease, key, streamKey } as never };
  }

  function createQueue() {
    const { state, cluster } = createCluster();
    let due = 0;
    const queue = createRedisQueue({ cluster, claimMs: CLAIM_MS, keepMs: HOUR, onDue: () => (due += 1) });
    return { state, queue, due: () => due };
  }

  const announce = (id: string, ageMs = 0) =>
    client.hset(streamKey('webhook', id), { format: 1, text: `event of ${id}`, since: Date.now() - ageMs });
  /** Milliseconds until a webhook is due. */
  const dueIn = async (id: string) => Number(await client.zscore(key('webhooks'), id)) - Date.now();
  const isNear = (ms: number, expected: number) => Math.abs(ms - expected) < 5_000;

  t.test('an ended stream is due at once, and one of several replicas delivers it', async (t) => {
    const [a, b] = [createQueue(), createQueue()];
    await announce('x', 7_000);
    a.queue.add('x');
    await until(() => a.due() === 1, 'it is due');
    t.ok(isNear(await client.pttl(key('webhooks')), HOUR), 'the schedule is kept as long as an event');
    const [webhook, ...more] = await b.queue.claim(8);
    t.match(webhook, { id: 'x', text: 'event of x' });
    t.ok(isNear(webhook?.ageMs ?? 0, 7_000), `${webhook?.ageMs} ms old`);
    t.same(more, []);
    t.same(await a.queue.claim(8), [], 'the other replica has it');
    t.ok(isNear(await dueIn('x'), 30_000), 'a replica that dies leaves it to the others');
    await client.zadd(key('webhooks'), 0, 'x');
    t.same(await a.queue.claim(8), [], 'but not before its claim has ended');
    await b.queue.remove('x');
    t.equal(await client.dbsize(), 0, 'nothing is left');
  });

  t.test('a webhook that was not delivered is due again after its pause, for any replica', async (t) => {
    const [a, b] = [createQueue(), createQueue()];
    await announce('x');
    a.queue.add('x');
    await until(() => a.due() === 1, 'it is due');
    t.equal((await a.queue.claim(1)).length, 1);
    await a.queue.postpone('x', 600_000);
    t.ok(isNear(await dueIn('x'), 600_000));
    t.same(await b.queue.claim(8), []);
    await client.zadd(key('webhooks'), 0, 'x');
    t.match(await b.queue.claim(8), [{ id: 'x' }]);
  });

  t.test('a stream that runs is looked at again after half a minute; one that is gone never', async (t) => {
    const { queue } = createQueue();
    await client.hset(streamKey('meta', 'runs'), 'epoch', 1);
    queue.expect('runs');
    await until(async () => (await client.zcard(key('webhooks'))) === 1, 'it is scheduled');
    t.ok(isNear(await dueIn('runs'), 30_000));
    await client.zadd(key('webhooks'), 0, 'runs', 0, 'gone');
    t.same(await queue.claim(8), []);
    t.ok(isNear(await dueIn('runs'), 30_000));
    t.equal(await client.zscore(key('webhooks'), 'gone'), null);
  });

  t.test('a claim returns at most what was asked for', async (t) => {
    const { queue } = createQueue();
    for (let i = 0; i < 5; i++) {
      await announce(`x${i}`);
      await client.zadd(key('webhooks'), i, `x${i}`);
    }
    t.match(await queue.claim(2), [{ id: 'x0' }, { id: 'x1' }]);
    t.match(await queue.claim(8), [{ id: 'x2' }, { id: 'x3' }, { id: 'x4' }]);
  });

  t.test('ends that Redis did not accept are scheduled by the next claims, a hundred at a time', async (t) => {
    const { queue, state, due } = createQueue();
    state.isAvailable = false;
    queue.expect('e0');
    for (let i = 0; i < 150; i++) queue.add(`e${i}`);
    await t.rejects(queue.claim(8), { message: 'unavailable' });
    state.isAvailable = true;
    for (let i = 0; i < 150; i++) await client.hset(streamKey('meta', `e${i}`), 'epoch', 1);
    await queue.claim(8);
    t.equal(await client.zcard(key('webhooks')), 100);
    await queue.claim(8);
    t.equal(await client.zcard(key('webhooks')), 150);
    await client.del(key('webhooks'));
    await queue.claim(8);
    t.equal(await client.zcard(key('webhooks')), 0, 'each is scheduled once');
    t.equal(due(), 0);
  });

  t.test('a refused end of an attempt does not throw: the webhook is due again when its claim ends', async (t) => {
    const { queue, state } = createQueue();
    await announce('x');
    await client.zadd(key('webhooks'), 0, 'x');
    await queue.claim(1);
    state.isAvailable = false;
    await queue.remove('x');
    await queue.postpone('x', 5_000);
    t.equal(await client.exists(streamKey('webhook', 'x')), 1);
    t.ok(isNear(await dueIn('x'), 30_000));
    queue.hurry();
    t.equal(queue.close(), 0, 'the end of a process loses nothing');
    t.equal(queue.isDurable, true);
  });

  t.test('an ended answer does not wait behind running ones that are due before it', async (t) => {
    const { queue } = createQueue();
    /** Schedules streams that run, and makes them due long ago. */
    const scheduleRunning = async (count: number) => {
      const commands = client.pipeline();
      for (let i = 0; i < count; i++)
        commands.hset(streamKey('meta', `r${i}`), 'epoch', 1).zadd(key('webhooks'), 1, `r${i}`);
      await commands.exec();
    };
    const countDue = () => client.zcount(key('webhooks'), 0, 3);
    await announce('ended');
    await scheduleRunning(200);
    await client.zadd(key('webhooks'), 3, 'ended');
    t.match(await queue.claim(8), [{ id: 'ended' }]);
    t.same(await queue.claim(8), [], 'nothing else is due');
    t.equal(await countDue(), 0, 'what runs is looked at again later');
    t.equal(await client.zcard(key('webhooks')), 201, 'and nothing is lost');
    await scheduleRunning(1_000);
    t.same(await queue.claim(8), []);
    t.equal(await countDue(), 200, 'a claim looks at most a hundred times');
  });

  t.test('when Redis refuses claims, one batch is postponed and not the whole schedule', async (t) => {
    const { queue } = createQueue();
    for (let i = 0; i < 20; i++) {
      // Of a type that no script can read.
      await client.set(streamKey('webhook', `w${i}`), '');
      await client.zadd(key('webhooks'), 1, `w${i}`);
    }
    t.same(await queue.claim(8), []);
    t.equal(await client.zcount(key('webhooks'), 0, 1), 12);
  });

  function createStore(t: Test, { maxPerOwner = 3, maxBytesPerOwner = 100_000 } = {}) {
    const { state, cluster } = createCluster();
    let evicted = 0;
    const store = new RedisResponses({
      ...{ ttlMs: HOUR, streamTtlMs: 300_000, maxPerOwner, maxBytesPerOwner, cluster },
      maxLogMs: () => 2 * HOUR,
      onEvicted: (count) => (evicted += count),
    });
    t.teardown(() => store.close());
    const kept = async (...ids: string[]) => {
      const found = await Promise.all(ids.map((id) => store.find(id)));
      return ids.filter((_, i) => found[i] !== undefined).join('');
    };
    return { store, state, kept, evicted: () => evicted };
  }

  const question = (owner = 'o', request = '{}'): SavedQuestion => ({ owner, createdAt: 1, request });
  /** Names of the keys that index the responses of owners. */
  const indexes = async () => (await client.keys(key('responses', '*'))).length;

  t.test('a question lives longer than its answer may take', async (t) => {
    const { store } = createStore(t);
    t.equal(await store.find('a'), undefined);
    await store.save('a', question('o', '{"input":1}'));
    const found = await store.find('a');
    t.same(found?.question, question('o', '{"input":1}'));
    t.equal(await found?.readAnswer(), undefined, 'the answer is written');
    t.ok(isNear(await client.pttl(streamKey('response', 'a')), 3 * HOUR));
  });

  t.test('the first question of a stream stays, also if it is saved or written again', async (t) => {
    const { store } = createStore(t);
    store.running.add('a');
    for (const createdAt of [1, 2, 3]) await store.save('a', { ...question(), createdAt });
    t.equal((await store.find('a'))?.question.createdAt, 1);
    await client.flushall();
    store.running.write('a');
    await until(async () => (await client.exists(streamKey('response', 'a'))) === 1, 'it is written again');
    t.equal((await store.find('a'))?.question.createdAt, 1);
  });

  t.test('an owner keeps its newest responses, by number and by bytes', async (t) => {
    const { store, kept, evicted } = createStore(t);
    for (const id of ['a', 'b', 'c']) await store.save(id, question());
    await store.save('c', question());
    t.equal(await kept('a', 'b', 'c'), 'abc', 'a repeated request counts once');
    await store.save('d', question());
    await store.save('e', question('p'));
    t.equal(await kept('a', 'b', 'c', 'd', 'e'), 'bcde', 'each owner has its own bounds');
    t.equal(evicted(), 1);
    await store.save('f', question('p', 'x'.repeat(30_000)));
    await store.save('g', question('p', 'x'.repeat(20_000)));
    t.equal(await kept('e', 'f', 'g'), 'g', 'two bytes for each character');
    t.equal(evicted(), 3);
    await store.save('h', question('p', 'x'.repeat(25_000)));
    for (const id of ['i', 'j']) await store.save(id, question('q', 'x'.repeat(5_000)));
    t.equal(await kept('g', 'h', 'i', 'j'), 'ghij', 'the bytes of one owner are not those of another');
  });

  t.test('a deleted response leaves its place in the bounds', async (t) => {
    const { store, kept, evicted } = createStore(t);
    for (const id of ['a', 'b', 'c']) await store.save(id, question('o', 'x'.repeat(15_000)));
    await store.delete('b', question('o', 'x'.repeat(15_000)));
    await store.save('d', question('o', 'x'.repeat(15_000)));
    t.equal(await kept('a', 'b', 'c', 'd'), 'acd');
    t.equal(evicted(), 0);
    t.equal(await indexes(), 1);
  });

  t.test('a question that Redis does not accept is found in this process, and written when it does', async (t) => {
    const { store, state, evicted } = createStore(t);
    state.isAvailable = false;
    await store.save('a', question());
    await store.save('b', question());
    const found = await store.find('a');
    t.same(found?.question, question());
    t.equal(await found?.readAnswer(), undefined);
    await t.rejects(store.find('other'), { message: 'unavailable' });
    await t.rejects(store.delete('a', question()), { message: 'unavailable' });
    t.ok(await store.find('a'), 'a response that cannot be deleted is not forgotten');
    state.isAvailable = true;
    await store.delete('b', question());
    t.equal(await store.find('b'), undefined, 'a deleted one is not written');
    state.renew();
    await until(async () => (await client.exists(streamKey('response', 'a'))) === 1, 'it is written');
    t.same((await store.find('a'))?.question, question());
    t.equal(await client.exists(streamKey('response', 'b')), 0);
    t.equal(evicted(), 0);
  });

  t.test('questions beyond the bound of those that wait count as evicted', async (t) => {
    const { store, state, evicted } = createStore(t);
    state.isAvailable = false;
    for (const id of ['a', 'b', 'c']) await store.save(id, question('o', 'x'.repeat(3_000_000)));
    t.equal(evicted(), 1);
    await t.rejects(store.find('a'), { message: 'unavailable' });
  });

  t.test('the end of the process writes what waits', async (t) => {
    const { store, state } = createStore(t);
    state.isAvailable = false;
    await store.save('a', question());
    state.isAvailable = true;
    await store.close();
    t.equal(await client.exists(streamKey('response', 'a')), 1);
  });

  t.test('a response of a newer version is not read', async (t) => {
    const { store } = createStore(t);
    await store.save('a', question());
    await client.hset(streamKey('response', 'a'), 'format', 2);
    await t.rejects(store.find('a'), { message: 'a newer version has stored this response' });
  });
});
