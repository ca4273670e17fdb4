import { createHash } from 'node:crypto';
import t from 'tap';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { RedisUnavailable } from '../../plugins/redis/connection.ts';
import { createStoreErrors } from '../../plugins/streams/store-errors.ts';
import { KeyConflict, type Terminal, type WritableLog } from '../../plugins/streams/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, newId, text } from './conformance.ts';
import { createReplicas, follow, type TestReplica, turns } from './replica-pair.ts';

/** A replica dies, or Redis loses a link, between the commands that tie a stream to its key and its conversation. */

const END: Terminal = { type: 'end', finishReason: 'stop' };

t.test('links to streams', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const setUp = async () => {
    const replicas = await createReplicas(t, url);
    const [a, b] = [await replicas.add(), await replicas.add()] as [TestReplica, TestReplica];
    const kinds = async () =>
      (await replicas.redis.keys(replicas.key('*'))).map((name) => name.split(':')[1] as string).sort();
    /** Kills a replica before its n-th command of a name; what it does then never settles. */
    const dieBefore = (replica: TestReplica, command: string, n: number) => {
      let left = n;
      replica.onCommand = (name) => {
        if (!replica.isConnected) return;
        if (name === command) left -= 1;
        if (left === 0) {
          replica.isConnected = false;
          throw new Error('it is dead');
        }
      };
    };
    return { replicas, a, b, kinds, dieBefore };
  };
  const info = (chat?: string) => ({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o', chat });

  // The commands of `create` with a key and a conversation, in their order: the log, the key, the conversation.
  for (const [crash, command, n, left] of [
    ['before the log', 'evalsha', 1, []],
    ['between the log and the key', 'evalsha', 2, ['log', 'meta']],
    ['between the key and the conversation', 'set', 1, ['key', 'log', 'meta']],
  ] as const) {
    t.test(`a crash ${crash}: the next question is answered once`, async (t) => {
      const { replicas, a, b, kinds, dieBefore } = await setUp();
      const key = { key: newId(), fingerprint: 'f' };
      const chat = newId();
      dieBefore(a, command, n);
      await a.commands.create({ info: info(chat), idempotency: key }).catch(() => {});
      const stored = (await kinds()).filter((kind) => ['key', 'chat', 'log', 'meta'].includes(kind));
      t.same(stored, left, 'what the crash has left');
      await a.die();
      const results = await Promise.all([b.store.create(info(chat), key), b.store.create(info(chat), key)]);
      const ids = new Set(results.map(({ log }) => log.info.id));
      t.equal(ids.size, 1, 'one stream');
      const found = await b.store.openByKey(key);
      t.equal(found?.info.id, [...ids][0]);
      const isCreated = results.some(({ created }) => created);
      t.equal(isCreated, !stored.includes('key' as never), 'a stream that has its key is found');
      if (isCreated) return;
      b.store.onTakeover((log) => log.end(END));
      const reader = await follow(found);
      await replicas.advance(10_000);
      t.same(reader.last?.terminal, END, 'and taken over');
    });
  }

  t.test('a stream that has its key already keeps it', async (t) => {
    const { replicas, a } = await setUp();
    const { redis, key } = replicas;
    const idempotency = { key: newId(), fingerprint: 'f' };
    await a.commands.create({ info: info(), idempotency });
    const [name] = (await redis.keys(key('key', '*'))) as [string];
    const own = info();
    await redis.set(name, `${own.id} f`);
    t.equal(await a.commands.create({ info: own, idempotency }), undefined);
    t.ok(await a.commands.meta(own.id), 'and is not deleted');
  });

  t.test('a crash of the one that loses the key: its log has no link, and the winner is found', async (t) => {
    const { a, b, kinds, dieBefore } = await setUp();
    const key = { key: newId(), fingerprint: 'f' };
    const winner = await a.store.create(info(), key);
    dieBefore(b, 'del', 1);
    const result = await b.commands.create({ info: info(), idempotency: key });
    t.equal(result?.id, winner.log.info.id, 'what cannot be deleted does not matter');
    t.same((await kinds()).filter((kind) => kind === 'meta').length, 2);
    await b.die();
    t.equal((await a.store.openByKey(key))?.info.id, winner.log.info.id);
  });

  t.test('a key whose stream cannot be read, as its slot is down, is refused and not asked again', async (t) => {
    const { a, b, kinds } = await setUp();
    const key = { key: newId(), fingerprint: 'f' };
    const { log } = await a.store.create(info(), key);
    const { mapStoreErrors } = createStoreErrors({
      apiError: (fields) => Object.assign(new Error(fields.message), fields),
      metrics: { refusals: { inc() {} } } as unknown as Metrics,
      log: { warn() {} } as never,
    });
    const before = await kinds();
    b.onCommand = (name) => {
      if (name === 'hmget') throw new RedisUnavailable('the node is dead');
    };
    const refusal = { status: 503, code: 'overloaded', retryAfterMs: 5_000 };
    await t.rejects(b.store.openByKey(key), { name: 'HolderUnreadable' });
    await t.rejects(mapStoreErrors(b.store.openByKey(key)), refusal);
    await t.rejects(mapStoreErrors(b.store.create(info(), key)), refusal, 'nor if it comes at the same moment');
    t.same(await kinds(), before, 'no other stream is left');
    await t.rejects(b.store.openByKey({ ...key, fingerprint: 'g' }), KeyConflict, 'that needs no read');
    b.onCommand = (name) => {
      if (name === 'get') throw new RedisUnavailable('the node is dead');
    };
    t.equal(await b.store.openByKey(key), undefined, 'while nothing is known of the key, its question is accepted');
    b.onCommand = () => {};
    t.equal((await b.store.openByKey(key))?.info.id, log.info.id);
  });

  t.test('a crash at the end: the conversation leads to no stream that has ended', async (t) => {
    const { replicas, a, b } = await setUp();
    const chat = newId();
    const log = await createLog(a.store, info(chat));
    t.equal((await b.store.openByChat(chat))?.info.id, log.info.id);
    t.equal((await a.store.openByChat(chat))?.info.id, log.info.id);
    const reader = await follow(await b.store.open(log.info.id));
    // The command that removes the conversation is the one after the end.
    let ends = 0;
    a.onCommand = (name) => {
      if (name === 'evalsha' && ++ends > 1) throw new Error('it is dead');
    };
    log.end(END);
    await replicas.settle();
    await turns();
    t.same(reader.last?.terminal, END);
    const name = (await replicas.redis.keys(replicas.key('chat', '*')))[0] as string;
    t.equal(await replicas.redis.get(name), log.info.id, 'the link is left');
    t.equal(await b.store.openByChat(chat), undefined);
    t.equal(await a.store.openByChat(chat), undefined);
    const other = await replicas.add();
    t.equal(await other.store.openByChat(chat), undefined, 'nor on a replica without a copy');
    const next = await createLog(b.store, info(chat));
    t.equal((await a.store.openByChat(chat))?.info.id, next.info.id, 'the next question of the conversation');
  });

  t.test('a key whose stream a failover has lost goes to the next question, and not back', async (t) => {
    const { replicas, a, b } = await setUp();
    const { redis, streamKey } = replicas;
    const key = { key: newId(), fingerprint: 'f' };
    const first = await a.store.create(info(), key);
    await redis.del(streamKey('meta', first.log.info.id), streamKey('log', first.log.info.id));
    const second = await b.store.create(info(), key);
    t.equal(second.created, true);
    a.missLease();
    await replicas.settle();
    t.ok(await redis.exists(streamKey('log', first.log.info.id)), 'the first stream is written again');
    t.equal((await b.commands.byKey(key))?.id, second.log.info.id);
  });

  t.test('links that a failover has lost are written again with their stream', async (t) => {
    const { replicas, a, b } = await setUp();
    const { redis } = replicas;
    const key = { key: newId(), fingerprint: 'f' };
    const chat = newId();
    const { log } = await a.store.create(info(chat), key);
    await redis.del(...(await redis.keys(replicas.key('key', '*'))), ...(await redis.keys(replicas.key('chat', '*'))));
    t.equal(await b.store.openByKey(key), undefined);
    a.missLease();
    await replicas.settle();
    t.equal((await b.store.openByKey(key))?.info.id, log.info.id);
    t.equal((await b.store.openByChat(chat))?.info.id, log.info.id);
  });

  t.test('after a change of nodes, the tail of a log and the names that were lost are written again', async (t) => {
    const { replicas, a, b } = await setUp();
    const { redis, streamKey, key } = replicas;
    const log = await createLog(a.store, info(newId()));
    void log.append(text('one '));
    await replicas.settle();
    const name = streamKey('log', log.info.id);
    const older = await redis.dumpBuffer(name);
    void log.append(text('two '));
    await replicas.settle();
    await redis.restore(name, 60_000, older as Buffer, 'REPLACE');
    await redis.del(key('producing', a.id));
    // The node of the conversation is still dead.
    a.onCommand = (command) => {
      if (command === 'set') throw new RedisUnavailable('the node is dead');
    };
    a.changeNodes();
    a.renewLease();
    await replicas.advance(2_000);
    void log.append(text('three'));
    await replicas.settle();
    const reader = await follow(await b.store.open(log.info.id));
    await replicas.settle();
    t.equal(reader.text, 'one two three');
    t.same(await redis.hkeys(key('producing', a.id)), [log.info.id]);
  });

  t.test('a node with nothing but a link is dead: the log stays in Redis', async (t) => {
    const { replicas, a } = await setUp();
    const log = await createLog(a.store, info(newId()));
    void log.append(text('one '));
    await replicas.settle();
    a.onCommand = (command) => {
      if (command === 'set') throw new RedisUnavailable('the node is dead');
    };
    a.changeNodes();
    await replicas.settle();
    t.equal(a.unsynced, 0);
  });

  t.test('a conversation leads to its newest stream, also if its link could not be written at first', async (t) => {
    const { replicas, a, b } = await setUp();
    const chat = newId();
    await createLog(a.store, info(chat));
    const failOnce = (command: string) => {
      let left = 1;
      a.onCommand = (name) => {
        if (name === command && left-- > 0) throw new RedisUnavailable('the node is dead');
      };
    };
    failOnce('set');
    const { log: newest } = await a.store.create(info(chat), { key: newId(), fingerprint: 'f' });
    await replicas.advance(2_000);
    t.equal((await b.store.openByChat(chat))?.info.id, newest.info.id);
    // Once it has its links, they are only restored.
    const { log: next } = await b.store.create(info(chat));
    a.changeNodes();
    failOnce('xadd');
    void (newest as typeof newest & WritableLog).append(text('one'));
    await replicas.advance(2_000);
    t.equal(a.unsynced, 2, 'it was unsynced at first and now');
    t.equal((await a.store.openByChat(chat))?.info.id, next.info.id, 'an older stream does not take it back');
  });

  t.test('a conversation whose link leads to an ended stream leads to the one of this replica', async (t) => {
    const { replicas, a, b } = await setUp();
    const chat = newId();
    const ended = await createLog(b.store, info(chat));
    ended.end(END);
    await replicas.settle();
    a.isConnected = false;
    const running = await createLog(a.store, info(chat));
    a.isConnected = true;
    const key = `chat:${createHash('sha256').update(chat).digest('base64url')}`;
    await replicas.redis.set(replicas.key(...key.split(':')), ended.info.id);
    t.equal((await a.store.openByChat(chat))?.info.id, running.info.id);
    t.equal(await b.store.openByChat(chat), undefined);
  });

  t.test('a stream that has ended before Redis had it takes no conversation', async (t) => {
    const { replicas, a, b } = await setUp();
    const chat = newId();
    a.isConnected = false;
    const ended = await createLog(a.store, info(chat));
    ended.end(END);
    const next = await createLog(b.store, info(chat));
    a.reconnect();
    await replicas.advance(2_000);
    const other = await replicas.add();
    t.equal((await other.store.openByChat(chat))?.info.id, next.info.id);
  });
});
