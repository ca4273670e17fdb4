import t, { type Test } from 'tap';
import type { RedisStoreOptions } from '../../plugins/streams/redis/store.ts';
import { KeyConflict, StoreFull, type Terminal, type WritableLog } from '../../plugins/streams/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, merged, newId, text } from './conformance.ts';
import { createReplicas, follow, type TestReplica, turns } from './replica-pair.ts';

/** Tests what a producer writes to Redis, and what its readers get while Redis does not accept it. */

const END: Terminal = { type: 'end', finishReason: 'stop' };
const RETRY_MS = 1_000;

const info = (graceMs = 15_000) => ({ id: newId(), model: 'm', graceMs, owner: 'o' });

t.test('writes of a producer', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);

  const setUp = async (t: Test, settings: Partial<RedisStoreOptions> = {}) => {
    const replicas = await createReplicas(t, url);
    const [a, b] = [await replicas.add(settings), await replicas.add(settings)] as [TestReplica, TestReplica];
    const log = await createLog(a.store, info());
    const { id } = log.info;
    const reader = await follow(log);
    /** Delays the commands of A until the returned function is called. */
    const hold = () => {
      let release = () => {};
      a.delay = new Promise((resolve) => {
        release = () => {
          a.delay = undefined;
          resolve();
        };
      });
      return release;
    };
    const entries = async () => b.commands.entriesAfter(id, '0-0', 1_000);
    /** The text in Redis; throws if there is a gap or an overlap. */
    const stored = async () => {
      let content = '';
      for (const { parts, position, terminal } of await entries()) {
        for (const { part } of parts) content += part.type === 'text' ? part.text : '';
        if (content.length !== position) throw new Error(`${content.length} units up to position ${position}`);
        if (terminal) content += '.';
      }
      return content;
    };
    const status: boolean[] = [];
    const watched = await log.read(0);
    void (async () => {
      for (;;) {
        const slice = await watched.next();
        if (slice.resumable !== undefined) status.push(slice.resumable);
        if (slice.terminal) return;
      }
    })();
    await replicas.settle();
    return { replicas, a, b, log, id, reader, hold, entries, stored, status };
  };

  t.test('much text is written without waiting for the interval', async (t) => {
    const { replicas, log, stored } = await setUp(t, { flushMs: 10_000 });
    for (const [part, expected] of [
      ['one', 3],
      ['two', 3],
      ['x'.repeat(4_092), 3],
      ['y', 4_099],
    ] as const) {
      void log.append(text(part));
      await replicas.settle();
      t.equal((await stored()).length, expected);
    }
    void log.append(text('z'.repeat(4_095)));
    await replicas.settle();
    void log.append(text('z'));
    await replicas.settle();
    t.equal((await stored()).length, 8_195);
  });

  t.test('a check that begins while the end is being written does not send it twice', async (t) => {
    const { replicas, a, log, reader, hold, status } = await setUp(t);
    void log.append(text('one'));
    await replicas.settle();
    const release = hold();
    log.end(END);
    a.missLease();
    await turns();
    release();
    await replicas.settle();
    t.same(reader.last?.terminal, END);
    t.equal(a.sent.filter((name) => name === 'evalsha').length, 2, 'the creation and one end');
    t.equal(a.unsynced, 0);
    t.same(status, [], 'readers get no status');
  });

  t.test('while messages do not arrive, streams are written and say that they cannot be resumed', async (t) => {
    const { replicas, a, log, reader, stored, status } = await setUp(t);
    a.loseSubscription();
    void log.append(text('one'));
    await replicas.settle();
    t.equal(reader.text, 'one');
    t.equal(await stored(), 'one', 'readers of other replicas get it');
    t.same(status, [false]);
    const fresh = await createLog(a.store, info());
    t.equal(fresh.resumable, false);
    t.equal(await replicas.redis.exists(replicas.streamKey('meta', fresh.info.id)), 0, 'a new stream is not in Redis');
    t.equal((await a.store.open(log.info.id))?.resumable, false);
    a.resubscribe();
    await replicas.advance(RETRY_MS);
    t.same(status, [false, true]);
    t.equal(await replicas.redis.exists(replicas.streamKey('meta', fresh.info.id)), 1);
    t.equal(fresh.resumable, true);
  });

  t.test('handOver: what another replica can continue is released without an end', async (t) => {
    const { replicas, a, b, hold } = await setUp(t);
    const taken: [string, string | undefined][] = [];
    b.store.onTakeover((log, prompt) => taken.push([log.info.id, prompt]));
    let isTakenOver = 0;
    const create = async (graceMs: number, prompt?: string) => {
      const result = await a.store.create(info(graceMs), undefined, prompt);
      const log = result.log as WritableLog;
      log.subscribe({ onReaders() {}, onStop() {}, onTakenOver: () => (isTakenOver += 1) });
      void log.append(text('one '));
      const reader = await follow(await b.store.open(log.info.id));
      await replicas.settle();
      return { log, reader };
    };
    const continued = await create(15_000, 'the prompt');
    const plain = await create(15_000);
    const brief = await create(0, 'the prompt');
    const release = hold();
    void continued.log.append(text('two ')); // Being written.
    const handedOver = a.store.handOver();
    await turns();
    release();
    await handedOver;
    const names = await Promise.all((await replicas.redis.keys('*producing*')).map((key) => replicas.redis.hkeys(key)));
    t.ok(names.flat().includes(continued.log.info.id), 'it has a name, so that it is ended if nobody continues it');
    void continued.log.append(text('dropped'));
    continued.log.end(END);
    await replicas.settle();
    t.same(taken, [[continued.log.info.id, 'the prompt']], 'at once, although the lease exists');
    t.equal(isTakenOver, 1, 'its generation is told to stop');
    t.equal(continued.reader.text, 'one two ', 'everything that was on its way is there');
    t.equal(continued.reader.last, undefined);
    for (const { log, reader } of [plain, brief]) {
      log.end(END);
      await replicas.settle();
      t.same(reader.last?.terminal, END, 'others are still written');
    }
  });

  t.test('handOver: a log of which Redis lacks a part, and one that ends meanwhile, stay here', async (t) => {
    const { replicas, a, b, hold } = await setUp(t);
    b.store.onTakeover(() => t.fail('nothing is taken over'));
    const create = async () => (await a.store.create(info(), undefined, 'the prompt')).log as WritableLog;
    const ending = await create();
    const reader = await follow(await b.store.open(ending.info.id));
    const release = hold();
    const handedOver = a.store.handOver();
    await turns();
    ending.end(END);
    release();
    await handedOver;
    await replicas.settle();
    t.same(reader.last?.terminal, END);
    const unsynced = await create();
    const remote = await follow(await b.store.open(unsynced.info.id));
    a.isConnected = false;
    void unsynced.append(text('one'));
    await replicas.settle();
    a.isConnected = true;
    await a.store.handOver();
    await replicas.settle();
    unsynced.end(END);
    a.reconnect();
    await replicas.advance(RETRY_MS);
    t.same(remote.last?.terminal, END);
    t.equal(remote.text, 'one');
  });

  t.test('readers get a part when Redis has it, and not before', async (t) => {
    const { replicas, log, reader, hold, stored } = await setUp(t);
    const release = hold();
    void log.append(text('one'));
    await turns();
    t.equal(reader.text, '');
    t.equal(log.length, 3, 'the producer counts it');
    release();
    await replicas.settle();
    t.equal(reader.text, 'one');
    t.equal(await stored(), 'one');
  });

  t.test('flushMs: the first part is written at once, later ones together once per interval', async (t) => {
    const { replicas, log, entries, reader } = await setUp(t, { flushMs: 10 });
    const { clock } = replicas;
    void log.append(text('a'));
    await replicas.settle();
    t.equal(reader.text, 'a');
    for (const letter of 'bc') void log.append(text(letter));
    await replicas.settle();
    clock.advance(9);
    void log.append(text('d'));
    await replicas.settle();
    t.equal(reader.text, 'a');
    clock.advance(1);
    await replicas.settle();
    t.equal(reader.text, 'abcd');
    clock.advance(10);
    void log.append(text('e'));
    await replicas.settle();
    t.equal(reader.text, 'abcde', 'a part after a pause is written at once');
    void log.append(text('f'));
    log.end(END);
    await replicas.settle();
    t.same(reader.last?.answer, 'abcdef', 'the end does not wait for the interval');
    t.same(
      (await entries()).map(({ position, terminal }) => [position, terminal !== undefined]),
      [
        [0, false],
        [1, false],
        [4, false],
        [5, false],
        [6, false],
        [6, true],
      ],
    );
    t.equal(clock.pending, 1, 'only the expiry timer is pending');
  });

  t.test('appends and the end are ignored after the end', async (t) => {
    const { replicas, log, reader, stored } = await setUp(t);
    void log.append(text('one'));
    log.end(END);
    void log.append(text('two'));
    log.end({ ...END, finishReason: 'stopped' });
    await replicas.settle();
    t.same(reader.last?.terminal, END);
    t.equal(await stored(), 'one.');
    void log.append(text('two'));
    await replicas.settle();
    t.equal(await stored(), 'one.');
  });

  t.test('a write that fails: readers here go on, and Redis gets everything afterwards', async (t) => {
    const { replicas, a, log, reader, stored, status } = await setUp(t);
    void log.append(text('one '));
    await replicas.settle();
    a.isConnected = false;
    void log.append(text('two '));
    await replicas.settle();
    t.equal(reader.text, 'one two ');
    t.same(status, [false], 'readers learn that they cannot resume elsewhere');
    t.equal(log.resumable, false);
    t.equal(a.unsynced, 1);
    void log.append(text('three '));
    await replicas.settle();
    t.equal(reader.text, 'one two three ');
    await replicas.advance(3 * RETRY_MS);
    t.equal(await stored(), 'one ');
    a.reconnect();
    await replicas.settle();
    t.equal(await stored(), 'one two three ', 'as soon as Redis is available');
    t.same(status, [false, true]);
    void log.append(text('four'));
    await replicas.settle();
    t.equal(await stored(), 'one two three four');
    log.end(END);
    await replicas.settle();
    t.equal(await stored(), 'one two three four.');
    await replicas.advance(3 * RETRY_MS);
    t.equal(replicas.clock.pending, 1, 'only the expiry timer is pending');
  });

  t.test('a single write that fails is made up for a second later', async (t) => {
    const { replicas, a, log, stored, status } = await setUp(t);
    a.onCommand = () => {
      a.onCommand = () => {};
      throw new Error('no reply');
    };
    void log.append(text('one'));
    await replicas.settle();
    t.equal(await stored(), '');
    await replicas.advance(RETRY_MS - 250);
    t.equal(await stored(), '');
    await replicas.advance(250);
    t.equal(await stored(), 'one');
    t.same(status, [false, true]);
  });

  t.test('a log that ends while Redis is unavailable ends for readers here, and in Redis afterwards', async (t) => {
    const { replicas, a, log, reader, stored } = await setUp(t);
    a.isConnected = false;
    void log.append(text('one'));
    await replicas.settle();
    log.end(END);
    await replicas.settle();
    t.equal(reader.last?.answer, 'one');
    a.reconnect();
    await replicas.settle();
    t.equal(await stored(), 'one.');
    await replicas.advance(2 * RETRY_MS);
    t.equal(replicas.clock.pending, 1, 'only the expiry timer is pending');
    const calls = a.sent.length;
    a.missLease();
    a.reconnect();
    await replicas.settle();
    t.equal(a.sent.length, calls, 'a log that is done is not checked any more');
  });

  t.test('the write of the end fails: readers here get it', async (t) => {
    const { replicas, a, log, reader, stored } = await setUp(t);
    void log.append(text('one'));
    await replicas.settle();
    a.isConnected = false;
    log.end(END);
    await replicas.settle();
    t.equal(reader.last?.answer, 'one');
    a.reconnect();
    await replicas.settle();
    t.equal(await stored(), 'one.');
  });

  t.test('parts that were waiting for a write that fails are shown in order', async (t) => {
    const { replicas, a, log, reader, hold } = await setUp(t);
    const release = hold();
    void log.append(text('one '));
    void log.append(text('two '));
    log.end(END);
    a.isConnected = false;
    release();
    await replicas.settle();
    t.equal(reader.text, 'one two ');
    t.equal(reader.last?.answer, 'one two ');
  });

  t.test('a stream that is created while Redis is unavailable is written when it is available', async (t) => {
    const { replicas, a, b } = await setUp(t);
    a.isConnected = false;
    const result = await a.store.create({ ...info(), chat: 'chat' }, { key: 'k', fingerprint: 'f' });
    const log = result.log as WritableLog;
    t.equal(result.created, true);
    t.equal(log.resumable, false);
    void log.append(text('one '));
    const reader = await follow(log);
    await replicas.settle();
    t.equal(reader.text, 'one ');
    t.equal((await a.store.openByChat('chat'))?.info.id, log.info.id, 'its replica finds it');
    t.equal((await a.store.openByKey({ key: 'k', fingerprint: 'f' }))?.info.id, log.info.id);
    t.equal(await a.store.openByKey({ key: 'other', fingerprint: 'f' }), undefined);
    t.equal(await b.store.openByChat('chat'), undefined);
    a.reconnect();
    await replicas.settle();
    t.equal(log.resumable, true);
    t.equal((await b.store.openByChat('chat'))?.info.id, log.info.id, 'others find it too');
    t.equal((await b.store.openByKey({ key: 'k', fingerprint: 'f' }))?.info.id, log.info.id);
    const remote = await follow(await b.store.open(log.info.id));
    await replicas.settle();
    t.equal(remote.text, 'one ');
  });

  t.test('a stream without grace time is never resumable', async (t) => {
    const { replicas, a } = await setUp(t);
    const log = await createLog(a.store, info(0));
    t.equal(log.resumable, false);
    a.isConnected = false;
    void log.append(text('one'));
    await replicas.settle();
    a.reconnect();
    await replicas.settle();
    t.equal(log.resumable, false);
  });

  for (const [what, lose] of [
    ['everything', (del: (...kinds: string[]) => Promise<unknown>) => del('meta', 'log')],
    ['the log', (del: (...kinds: string[]) => Promise<unknown>) => del('log')],
  ] as const) {
    t.test(`Redis has lost ${what}: it is written again`, async (t) => {
      const { replicas, log, id, reader, stored, status } = await setUp(t);
      void log.append(text('one '));
      await replicas.settle();
      const { redis, streamKey } = replicas;
      await lose((...kinds) => redis.del(kinds.map((kind) => streamKey(kind, id))));
      void log.append(text('two '));
      await replicas.settle();
      t.equal(reader.text, 'one two ');
      await replicas.advance(RETRY_MS);
      t.equal(await stored(), 'one two ');
      t.same(status, [false, true]);
    });
  }

  t.test('a lease that was missing: the log is checked, and written again if Redis lacks a part', async (t) => {
    const { replicas, a, log, id, reader, stored, status } = await setUp(t);
    void log.append(text('one '));
    await replicas.settle();
    a.missLease();
    await replicas.settle();
    t.same(status, [], 'nothing is missing');
    await replicas.redis.del(replicas.streamKey('meta', id), replicas.streamKey('log', id));
    a.missLease();
    await replicas.settle();
    t.equal(await stored(), 'one ');
    t.same(status, [false, true]);
    void log.append(text('two'));
    await replicas.settle();
    t.equal(reader.text, 'one two');
    t.equal(await stored(), 'one two');
  });

  t.test('parts that arrive during such a check are written after it', async (t) => {
    const { replicas, a, log, reader, hold, stored } = await setUp(t);
    void log.append(text('one '));
    await replicas.settle();
    const release = hold();
    a.missLease();
    a.missLease();
    void log.append(text('two '));
    log.end(END);
    await turns();
    t.equal(reader.text, 'one ');
    release();
    await replicas.settle();
    t.equal(reader.last?.answer, 'one two ');
    t.equal(await stored(), 'one two .');
  });

  t.test('Redis came back with older data: the rest is written again', async (t) => {
    const { replicas, a, log, id, reader, stored } = await setUp(t);
    void log.append(text('one '));
    await replicas.settle();
    void log.append(text('two '));
    await replicas.settle();
    await replicas.redis.del(replicas.streamKey('log', id));
    await replicas.redis.xadd(replicas.streamKey('log', id), '1-4', 't', 'one ');
    a.reconnect();
    await replicas.settle();
    t.equal(await stored(), 'one two ');
    void log.append(text('three'));
    await replicas.settle();
    t.equal(reader.text, 'one two three');
    t.equal(await stored(), 'one two three');
  });

  t.test('a long log is written again in several entries', async (t) => {
    const { replicas, a, log, stored } = await setUp(t);
    a.isConnected = false;
    void log.append(text('x'.repeat(200_000)));
    await replicas.settle();
    a.reconnect();
    await replicas.settle();
    t.equal((await stored()).length, 200_000);
  });

  t.test('a producer that was taken over while it wrote: its readers get only what the new one writes', async (t) => {
    const { replicas, a, b, log, id, reader } = await setUp(t);
    let takenOver = 0;
    const onTakenOver = () => {
      takenOver += 1;
    };
    log.subscribe({ onReaders() {}, onStop() {}, onTakenOver });
    void log.append(text('one '));
    await replicas.settle();
    await replicas.redis.del(replicas.leaseKey(a.id));
    const takeover = await b.commands.takeOver(id, { replica: a.id, epoch: 1 });
    await replicas.redis.set(replicas.leaseKey(a.id), '1');
    void log.append(text('rejected '));
    await replicas.settle();
    t.equal(takenOver, 1);
    t.equal(reader.text, 'one ', 'a rejected part is not shown');
    await b.commands.append(id, takeover?.epoch as number, 8, merged(text('two ')));
    await replicas.advance(2_000);
    t.equal(reader.text, 'one two ');
    void log.append(text('ignored'));
    log.end(END);
    await replicas.settle();
    t.equal(reader.last, undefined);
  });

  t.test('a write fails when the lease may have expired: readers get nothing until ownership is known', async (t) => {
    for (const isTaken of [false, true]) {
      const { replicas, a, b, log, id, reader } = await setUp(t);
      void log.append(text('one '));
      await replicas.settle();
      if (isTaken) {
        await replicas.redis.del(replicas.leaseKey(a.id));
        await b.commands.takeOver(id, { replica: a.id, epoch: 1 });
      }
      a.lease.isHeld = false;
      let fail = true;
      a.onCommand = (name) => {
        if (name === 'xadd' && fail) {
          fail = false;
          throw new Error('no reply');
        }
      };
      void log.append(text('two '));
      await replicas.settle();
      t.equal(reader.text, isTaken ? 'one ' : 'one two ', isTaken ? 'taken over' : 'not taken over');
    }
  });

  t.test('a producer whose readers have more than Redis ever had stays with them after a takeover', async (t) => {
    const { replicas, a, b, log, id, reader } = await setUp(t);
    void log.append(text('one '));
    await replicas.settle();
    a.isConnected = false;
    void log.append(text('two '));
    await replicas.settle();
    await replicas.redis.del(replicas.leaseKey(a.id));
    await b.commands.takeOver(id, { replica: a.id, epoch: 1 });
    a.reconnect();
    await replicas.settle();
    void log.append(text('three'));
    log.end(END);
    await replicas.advance(5 * RETRY_MS);
    t.equal(reader.last?.answer, 'one two three', 'its readers get the whole answer');
    const entries = await b.commands.entriesAfter(id, '0-0', 10);
    t.same(
      entries.map((entry) => entry.id),
      ['1-0', '1-4', '2-4'],
      'nothing is written',
    );
    t.equal(log.resumable, false);
    t.equal(replicas.clock.pending, 1, 'only the expiry timer is pending');
  });

  t.test('an unsynced log that is evicted from memory is never written', async (t) => {
    const replicas = await createReplicas(t, url);
    const a = await replicas.add({ maxTotalBytes: 30_000 });
    a.isConnected = false;
    const old = await createLog(a.store, info());
    void old.append(text('x'.repeat(10_000)));
    old.end(END);
    await replicas.settle();
    const next = await createLog(a.store, info());
    void next.append(text('x'.repeat(10_000)));
    await replicas.settle();
    t.equal(a.evicted, 1);
    a.isConnected = true;
    await replicas.advance(2 * RETRY_MS);
    t.equal(await replicas.redis.exists(replicas.streamKey('log', old.info.id)), 0);
    t.equal(await replicas.redis.exists(replicas.streamKey('log', next.info.id)), 1);
    next.end(END);
    await replicas.advance(2 * RETRY_MS);
    t.equal(replicas.clock.pending, 1, 'only the expiry timer is pending');
  });

  t.test('the producer waits when more than 64 Ki units are not acknowledged', async (t) => {
    const { replicas, log, hold } = await setUp(t, { highWaterMark: 1e6 });
    const release = hold();
    t.equal(log.append(text('x'.repeat(65_536))), undefined);
    const waiting = log.append(text('x'));
    t.ok(waiting);
    let isOver = false;
    void waiting?.then(() => {
      isOver = true;
    });
    await turns();
    t.equal(isOver, false);
    release();
    await replicas.settle();
    t.equal(isOver, true);
  });

  t.test('a read of a position that is not acknowledged waits for Redis', async (t) => {
    const { replicas, log, hold } = await setUp(t);
    const release = hold();
    void log.append(text('one'));
    let reader: unknown;
    const opening = log.read(3).then((opened) => {
      reader = opened;
    });
    await turns();
    t.equal(reader, undefined);
    release();
    await replicas.settle();
    await opening;
    t.ok(reader);
  });

  t.test('a stop is ignored after the end, even if the end is not written yet', async (t) => {
    const { replicas, log, hold } = await setUp(t);
    let stops = 0;
    const countStop = () => {
      stops += 1;
    };
    log.subscribe({ onReaders() {}, onStop: countStop, onTakenOver() {} });
    await log.stop();
    t.equal(stops, 1);
    const release = hold();
    log.end(END);
    await log.stop();
    t.equal(stops, 1);
    release();
    await replicas.settle();
  });

  t.test('close waits until what was appended is written', async (t) => {
    const { replicas, a, log, hold, stored } = await setUp(t);
    const release = hold();
    void log.append(text('one'));
    let isClosed = false;
    const closing = a.store.close().then(() => {
      isClosed = true;
    });
    await turns();
    t.equal(isClosed, false);
    release();
    await closing;
    t.equal(await stored(), 'one');
    t.equal(replicas.clock.pending, 0, 'no timer is pending');
  });

  t.test('close leaves no timer behind while Redis is unavailable and readers are open', async (t) => {
    const { replicas, a, b, log, id } = await setUp(t);
    await follow(await b.store.open(id));
    await replicas.settle();
    a.isConnected = false;
    void log.append(text('one'));
    await replicas.settle();
    t.ok(replicas.clock.pending >= 3, 'the sweep of remote readers, the retry, and the tick of B');
    await a.store.close();
    await b.store.close();
    t.equal(replicas.clock.pending, 0);
  });

  t.test('a store without room for a stream leaves nothing of it in Redis', async (t) => {
    const replicas = await createReplicas(t, url);
    const a = await replicas.add({ maxTotalBytes: 3_000 });
    await createLog(a.store, info());
    const before = await replicas.redis.keys(replicas.key('*'));
    await t.rejects(a.store.create({ ...info(), chat: 'c' }, { key: 'k', fingerprint: 'f' }), StoreFull);
    t.same((await replicas.redis.keys(replicas.key('*'))).sort(), before.sort());
  });

  t.test('a key that another replica used gives its stream, or a conflict', async (t) => {
    const { replicas, a, b } = await setUp(t);
    const idempotency = { key: 'k', fingerprint: 'f' };
    const { log } = await a.store.create(info(), idempotency);
    void (log as WritableLog).append(text('one'));
    const found = await b.store.create(info(), idempotency);
    t.equal(found.created, false);
    t.equal(found.log.info.id, log.info.id);
    const reader = await follow(found.log);
    await replicas.settle();
    t.equal(reader.text, 'one');
    t.equal((await b.store.openByKey(idempotency))?.info.id, log.info.id);
    await t.rejects(b.store.create(info(), { key: 'k', fingerprint: 'g' }), KeyConflict);
    await t.rejects(b.store.openByKey({ key: 'k', fingerprint: 'g' }), KeyConflict);
    await t.rejects(a.store.create(info(), { key: 'k', fingerprint: 'g' }), KeyConflict);
  });
});
