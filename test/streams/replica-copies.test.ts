import t, { type Test } from 'tap';
import { FOLLOW, type Follow, GONE } from '../../plugins/streams/redis/messages.ts';
import type { RedisStoreOptions } from '../../plugins/streams/redis/store.ts';
import { PositionUnknown, StoreFull, type Terminal, type WritableLog } from '../../plugins/streams/types.ts';
import type { ContentPart } from '../../providers/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, merged, newId, text } from './conformance.ts';
import { createReplicas, follow } from './replica-pair.ts';

/** Copies of a log on other replicas: what they read from Redis, and what becomes of them when the producer dies. */

const END: Terminal = { type: 'end', finishReason: 'stop' };
const LOST = { type: 'error', code: 'stream_lost' };
const TICK_MS = 500;
/** Time after which a replica whose lease is missing counts as dead, at a look. */
const DEATH_MS = 2_000;
/** Most entries that are read from Redis at once, and those of the first read. */
const BATCH = 64;
const FIRST_BATCH = 16;

const info = (id = newId()) => ({ id, model: 'm', graceMs: 15_000, owner: 'o' });

t.test('copies of a log', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);

  const setUp = async (t: Test, settings: Partial<RedisStoreOptions> = {}) => {
    const replicas = await createReplicas(t, url);
    const [a, b] = [await replicas.add(settings), await replicas.add(settings)];
    return { replicas, a, b };
  };

  /** Replicas, and a log of A that exists in Redis only, so that the test writes its entries. */
  const setUpInRedis = async (t: Test, settings: Partial<RedisStoreOptions> = {}) => {
    const { replicas, a, b } = await setUp(t, settings);
    replicas.isLost = ({ kind }) => kind === GONE;
    const keys = { info: info() };
    const { id } = keys.info;
    await a.commands.create(keys);
    let position = 0;
    /** Writes one entry of `units` units for each element. */
    const write = async (units: number[], epoch = 1) => {
      const appends = units.map((count) => {
        position += count;
        return a.commands.append(id, epoch, position, merged(text(String(position).padStart(count, '.'))));
      });
      await Promise.all(appends);
    };
    const end = () => a.commands.end(keys, 1, position, END);
    const open = async (from = 0) => follow(await b.store.open(id), from);
    const reads = () => b.sent.filter((command) => command === 'xrange').length;
    const reports = () =>
      replicas.messages.filter(({ kind }) => kind === FOLLOW).map(({ to, body }) => ({ to, logs: body as Follow }));
    return { replicas, a, b, id, write, end, open, reads, reports, log: replicas.streamKey('log', id) };
  };

  for (const count of [BATCH - 2, BATCH - 1, BATCH, 900]) {
    t.test(`${count} small entries are read in few reads`, async (t) => {
      const { replicas, write, end, open, reads } = await setUpInRedis(t);
      await write(Array(count).fill(4));
      await end();
      const reader = await open();
      await replicas.settle();
      t.equal(reader.text.length, 4 * count);
      t.same(reader.last?.terminal, END);
      t.ok(reads() <= Math.ceil((count + 2 - FIRST_BATCH) / BATCH) + 3, `in few reads (${reads()})`);
    });
  }

  t.test('900 entries that a message announces are read at once', async (t) => {
    const { replicas, a, b, id, write, open, reports } = await setUpInRedis(t);
    const reader = await open();
    await replicas.settle();
    await write(Array(900).fill(4));
    b.resubscribe();
    await replicas.settle();
    t.equal(reader.text.length, 3_600);
    t.same(new Set(reports().map(({ to }) => to)), new Set([a.id]), 'each report goes to the producer');
    t.match(reports().at(-1)?.logs, [[id, 1]]);
  });

  t.test('a copy is read no further ahead than its fastest reader allows', async (t) => {
    const { replicas, b, id, write, end, reports } = await setUpInRedis(t, { highWaterMark: 1_000 });
    await write(Array(1_000).fill(100));
    await end();
    const reader = await (await b.store.open(id))?.read(0);
    await replicas.settle();
    const position = reports().at(-1)?.logs[0]?.[2] ?? 0;
    t.ok(position <= BATCH * 100, `the copy has ${position} of 100,000 units`);
    let length = 0;
    for (let last = false; !last; ) {
      const slice = await reader?.next();
      length = slice?.parts.at(-1)?.position ?? length;
      last = slice?.terminal !== undefined;
    }
    t.equal(length, 100_000, 'the reader gets everything');
  });

  t.test('the producer is told when the copy has grown by half the high-water mark', async (t) => {
    const { replicas, b, write, open, reports } = await setUpInRedis(t, { highWaterMark: 1_000 });
    await open();
    await replicas.settle();
    const positions = () => reports().map(({ logs }) => logs[0]?.[2]);
    t.same(positions(), [0]);
    const grow = async (units: number) => {
      await write([units]);
      replicas.messages.length = 0;
      b.resubscribe();
      await replicas.settle();
      return positions();
    };
    t.same(await grow(499), [0], 'no further report below that');
    t.same(await grow(499), [499], 'the report of before');
    t.same(await grow(500), [998, 1_498], 'a report when the copy has grown');
  });

  t.test('nothing more is read when the last reader has left, not even during a read', async (t) => {
    const { replicas, b, id, write, open, reads } = await setUpInRedis(t);
    const reader = await open();
    await replicas.settle();
    await write(Array(900).fill(4));
    let resume = () => {};
    b.delay = new Promise((resolve) => {
      resume = resolve;
    });
    b.resubscribe();
    reader.close();
    b.delay = undefined;
    resume();
    const before = reads();
    await replicas.advance(10_000);
    t.equal(reads(), before + 1, 'only the read that was on its way');

    const waiting = await (await b.store.open(id))?.read(0);
    await replicas.settle();
    waiting?.close();
    const read = reads();
    await replicas.advance(10_000);
    t.equal(reads(), read, 'a reader that did not read');
    t.equal(replicas.clock.pending, 0);
  });

  t.test('an entry that is missing in Redis: readers get stream_lost instead of a gap', async (t) => {
    const { replicas, write, end, open, log } = await setUpInRedis(t);
    await write([4, 4, 4]);
    await replicas.redis.xdel(log, '1-8');
    await end();
    const reader = await open();
    await replicas.settle();
    t.match(reader.last?.terminal, LOST);
    t.equal(reader.text, '...4', 'the text before the gap');
  });

  t.test('a missing last entry: the terminal shows the gap', async (t) => {
    const { replicas, write, end, open, log } = await setUpInRedis(t);
    await write([4, 4]);
    await replicas.redis.xdel(log, '1-8');
    await end();
    const reader = await open();
    await replicas.settle();
    t.match(reader.last?.terminal, LOST);
    t.equal(reader.text, '...4');
  });

  t.test('entries that overlap are joined without a duplicate', async (t) => {
    const { replicas, a, id, write, open } = await setUpInRedis(t);
    await write([4, 4]);
    const parts: ContentPart[] = [text('34'), { type: 'reasoning', text: '56' }, text('789')];
    await a.commands.append(id, 2, 10, merged(...parts)); // From 3 to 10.
    const reader = await open();
    await replicas.settle();
    t.equal(reader.text, '...4...889');
    t.equal(reader.position, 10);
  });

  t.test('a log that Redis has lost: readers get stream_lost after two seconds', async (t) => {
    const { replicas, a, id, write, open, log } = await setUpInRedis(t);
    await write([4]);
    const reader = await open();
    await replicas.settle();
    await replicas.redis.del(replicas.streamKey('meta', id), log);
    await a.die();
    await replicas.advance(DEATH_MS);
    t.equal(reader.last, undefined, 'its producer may be writing it again');
    await replicas.advance(1_500);
    t.equal(reader.last, undefined);
    await replicas.advance(1_000);
    t.match(reader.last?.terminal, LOST);
  });

  t.test('a log that is missing for a short time, again and again, is read on', async (t) => {
    const { replicas, a, id, write, open } = await setUpInRedis(t);
    const [meta, lease] = [replicas.streamKey('meta', id), replicas.leaseKey(a.id)];
    await write([4]);
    const reader = await open();
    await replicas.settle();
    for (let i = 0; i < 3; i++) {
      // Redis was emptied, and the producer writes its lease and its logs again.
      await replicas.redis.rename(meta, replicas.key('hidden'));
      await replicas.redis.del(lease);
      await replicas.advance(1_500);
      await replicas.redis.set(lease, '1');
      await replicas.redis.rename(replicas.key('hidden'), meta);
      await replicas.advance(2_000);
      t.equal(reader.last, undefined, `absence ${i}`);
    }
  });

  t.test('a read ahead of the copy waits until the log has reached the position', async (t) => {
    const { replicas, b, id, write } = await setUpInRedis(t);
    await write([4]);
    const handle = await b.store.open(id);
    let reader: Awaited<ReturnType<typeof follow>> | undefined;
    const opening = follow(handle, 8).then((opened) => {
      reader = opened;
    });
    await replicas.advance(1_000);
    t.equal(reader, undefined);
    await write([4, 4]);
    await replicas.advance(500);
    await opening;
    await replicas.settle();
    t.equal(reader?.text, '..12', 'what follows the position');
  });

  t.test('a read ahead of a copy that has other readers waits as well', async (t) => {
    const { replicas, write, open } = await setUpInRedis(t);
    await write([4]);
    const first = await open();
    await replicas.settle();
    const opening = open(8);
    await replicas.advance(500, 50);
    await write([4, 4]);
    await replicas.advance(100, 50);
    const second = await opening;
    await replicas.settle();
    t.equal(second.text, '..12');
    t.equal(first.text, '...4...8..12');
  });

  t.test('a read behind the end is rejected after two seconds, and leaves nothing behind', async (t) => {
    const { replicas, b, id, write, end, reads } = await setUpInRedis(t);
    await write([4]);
    const handle = await b.store.open(id);
    let error: unknown;
    const opening = handle?.read(5).catch((reason: unknown) => {
      error = reason;
    });
    await replicas.advance(1_950, 50);
    t.equal(error, undefined, 'the producer may be resyncing');
    t.ok(reads() > 5, 'the log is read again and again');
    await replicas.advance(100, 50);
    await opening;
    t.ok(error instanceof PositionUnknown);
    await replicas.advance(1_000);
    t.equal(replicas.clock.pending, 0, 'no timer is pending');
    await end();
    await t.rejects((await b.store.open(id))?.read(5) as Promise<unknown>, PositionUnknown, 'at once, after the end');
  });

  t.test('a reader at a position far behind another one gets everything', async (t) => {
    const { replicas, write, end, open } = await setUpInRedis(t, { highWaterMark: 100 });
    await write(Array(300).fill(10));
    const ahead = await open(2_000);
    const behind = await open(10);
    await end();
    await replicas.advance(2_000);
    t.equal(ahead.text.length, 1_000);
    t.equal(behind.text.length, 2_990);
    t.same([ahead.last?.terminal, behind.last?.terminal], [END, END]);
  });

  t.test('Redis is unavailable when a read begins: a reader from the start waits, others are refused', async (t) => {
    const { replicas, b, id, write } = await setUpInRedis(t);
    await write([4]);
    const handle = await b.store.open(id);
    b.isConnected = false;
    await t.rejects(handle?.read(2) as Promise<unknown>, { name: 'RedisUnavailable' });
    await replicas.advance(TICK_MS);
    t.equal(replicas.clock.pending, 0, 'the refused reader leaves nothing behind');
    const reader = await follow(handle);
    b.reconnect();
    await replicas.settle();
    t.equal(reader.text, '...4');
  });

  t.test('a complete copy is kept for later readers, without any message or read', async (t) => {
    const { replicas, b, id, write, end, open, reads } = await setUpInRedis(t);
    await write([4]);
    await end();
    const first = await open();
    await replicas.settle();
    t.same(first.last?.terminal, END);
    await replicas.advance(5_000);
    const [sent, read] = [replicas.messages.length, reads()];
    await replicas.advance(5_000);
    t.same([replicas.messages.length, reads()], [sent, read]);
    t.ok(await b.store.open(id));
  });

  t.test('a store without room for a copy refuses the read', async (t) => {
    const replicas = await createReplicas(t, url);
    const a = await replicas.add();
    const b = await replicas.add({ maxTotalBytes: 3_000 });
    await createLog(b.store, info());
    const log = await createLog(a.store, info());
    await t.rejects((await b.store.open(log.info.id))?.read(0) as Promise<unknown>, StoreFull);
    await replicas.settle();
    t.equal(replicas.clock.pending, 0);
  });

  t.test('takeover', async (t) => {
    /** A log of A with a reader on B, which takes logs over. */
    const setUpTakeover = async (t: Test, prompt?: string) => {
      const { replicas, a, b } = await setUp(t);
      const result = await a.store.create(info(), undefined, prompt);
      const log = result.log as WritableLog;
      const takeovers: { log: WritableLog; prompt: string | undefined; isStopRequested?: boolean | undefined }[] = [];
      b.store.onTakeover((taken, serialized, isStopRequested) =>
        takeovers.push({ log: taken, prompt: serialized, isStopRequested }),
      );
      void log.append(text('one '));
      const reader = await follow(await b.store.open(log.info.id));
      await replicas.settle();
      return { replicas, a, b, log, takeovers, reader, id: log.info.id };
    };

    t.test('the log of a dead producer goes on here, with the number of its readers', async (t) => {
      const { replicas, a, takeovers, reader } = await setUpTakeover(t, 'the prompt');
      await replicas.advance(10_000);
      t.same(takeovers, [], 'its producer lives');
      await a.die();
      await replicas.advance(DEATH_MS);
      t.equal(takeovers.length, 1);
      t.equal(takeovers[0]?.prompt, 'the prompt');
      t.equal(takeovers[0]?.isStopRequested, false);
      const taken = takeovers[0]?.log as WritableLog;
      const counts: number[] = [];
      taken.subscribe({ onReaders: (count) => counts.push(count), onStop() {}, onTakenOver() {} });
      t.same(counts, [1], 'a subscriber learns at once that there is a reader');
      void taken.append(text('two'));
      taken.end(END);
      await replicas.settle();
      t.equal(reader.text, 'one two');
      t.same(reader.last?.terminal, END);
      await replicas.advance(10_000);
      t.equal(takeovers.length, 1, 'once');
    });

    t.test('the handler learns that a client has stopped the answer', async (t) => {
      const { replicas, a, b, takeovers, id } = await setUpTakeover(t, 'the prompt');
      await a.die();
      await (await b.store.open(id))?.stop();
      await replicas.advance(DEATH_MS);
      t.match(takeovers, [{ isStopRequested: true }]);
    });

    t.test('no log is taken over until this replica has renewed its own lease for two seconds', async (t) => {
      const { replicas, a, b, takeovers } = await setUpTakeover(t);
      await a.die();
      b.lease.renewedForMs = 1_999;
      await replicas.advance(10_000);
      t.equal(takeovers.length, 0, 'Redis may have been unavailable to the producer too');
      b.lease.renewedForMs = 2_000;
      await replicas.advance(DEATH_MS);
      t.equal(takeovers.length, 1);
    });

    t.test('a log whose end is in Redis is not taken over', async (t) => {
      const { replicas, a, log, takeovers, reader } = await setUpTakeover(t);
      replicas.isLost = () => true;
      log.end(END);
      await replicas.settle();
      await a.die();
      await replicas.advance(DEATH_MS);
      t.same(takeovers, []);
      t.same(reader.last?.terminal, END);
    });

    t.test('entries that arrive after the last read are part of the log', async (t) => {
      const { replicas, a, log, takeovers, reader } = await setUpTakeover(t, 'the prompt');
      replicas.isLost = () => true;
      void log.append(text('two'));
      await replicas.settle();
      t.equal(reader.text, 'one ');
      await a.die();
      await replicas.advance(DEATH_MS);
      t.equal(reader.text, 'one two');
      t.equal(takeovers[0]?.log.length, 7);
      t.equal(takeovers[0]?.prompt, 'the prompt');
    });

    for (const [failures, isComplete] of [
      [4, true],
      [5, false],
    ] as const) {
      const what = isComplete ? 'can be continued' : 'cannot be continued';
      t.test(`a log whose last entries cannot be read in ${failures} tries ${what}`, async (t) => {
        const { replicas, a, b, takeovers, reader, id } = await setUpTakeover(t, 'the prompt');
        await a.die();
        let left = 0;
        b.onCommand = (name) => {
          if (name === 'evalsha') {
            // The last entry arrives between the last read and the takeover.
            void replicas.redis.xadd(replicas.streamKey('log', id), '1-7', 't', 'two');
            left = failures;
          } else if (name === 'xrange' && left > 0) {
            left -= 1;
            throw new Error('no reply');
          }
        };
        await replicas.advance(DEATH_MS);
        t.equal(takeovers.length, 1);
        t.equal(takeovers[0]?.prompt, isComplete ? 'the prompt' : undefined);
        t.equal(reader.text, isComplete ? 'one two' : 'one ');
      });
    }

    t.test('every log of a dead producer is taken over', async (t) => {
      const { replicas, a, b } = await setUp(t);
      const ids = new Set<string>();
      const taken = new Set<string>();
      b.store.onTakeover((log) => {
        taken.add(log.info.id);
        log.end(END);
      });
      for (let i = 0; i < 130; i++) {
        const log = await createLog(a.store, info());
        ids.add(log.info.id);
        await follow(await b.store.open(log.info.id));
      }
      await replicas.settle();
      await a.die();
      await replicas.advance(DEATH_MS);
      t.same(taken, ids);
    });

    t.test('of two replicas one takes over, and the other reads what it writes', async (t) => {
      const { replicas, a, b, takeovers, id } = await setUpTakeover(t);
      const c = await replicas.add();
      c.store.onTakeover((log, prompt) => takeovers.push({ log, prompt }));
      const reader = await follow(await c.store.open(id));
      await replicas.settle();
      await a.die();
      await replicas.advance(DEATH_MS);
      t.equal(takeovers.length, 1);
      const { log } = takeovers[0] as { log: WritableLog };
      await replicas.advance(3 * TICK_MS);
      const sent = replicas.messages.length;
      void log.append(text('two'));
      await replicas.settle();
      t.equal(reader.text, 'one two', 'news reach the other replica at once');
      t.ok(replicas.messages.slice(sent).every(({ from, to }) => [b.id, c.id].includes(from) && to !== a.id));
      log.end(END);
      await replicas.settle();
      t.same(reader.last?.terminal, END);
    });

    t.test('a producer that comes back hands its readers over to the new producer', async (t) => {
      const { replicas, a, b, log, takeovers, id } = await setUpTakeover(t);
      const local = await follow(log);
      let isTakenOver = 0;
      log.subscribe({ onReaders() {}, onStop() {}, onTakenOver: () => (isTakenOver += 1) });
      await replicas.settle();
      // A is paused for longer than its lease.
      a.lease.isHeld = false;
      await replicas.redis.del(replicas.leaseKey(a.id));
      await replicas.advance(DEATH_MS);
      t.equal(takeovers.length, 1);
      await replicas.redis.set(replicas.leaseKey(a.id), '1');
      a.lease.isHeld = true;
      a.missLease();
      await replicas.settle();
      t.equal(isTakenOver, 1, 'the old producer is told');
      void log.append(text('rejected'));
      log.end(END);
      const taken = takeovers[0]?.log as WritableLog;
      void taken.append(text('two'));
      await replicas.advance(2 * TICK_MS);
      t.equal(local.text, 'one two', 'its reader gets what the new producer writes');
      taken.end(END);
      await replicas.advance(2_000);
      t.equal(local.last?.answer, 'one two');
      t.ok(await b.store.open(id));
    });

    t.test('a producer without readers that comes back forgets the log', async (t) => {
      const { replicas, a, log, takeovers, id } = await setUpTakeover(t);
      await replicas.redis.del(replicas.leaseKey(a.id));
      a.isConnected = false;
      await replicas.advance(10_000);
      t.equal(takeovers.length, 1);
      a.reconnect();
      await replicas.settle();
      takeovers[0]?.log.append(text('two'));
      takeovers[0]?.log.end(END);
      await replicas.settle();
      const reader = await follow(await a.store.open(id));
      await replicas.settle();
      t.equal(reader.text, 'one two', 'it reads the log of the new producer');
      t.equal(log.length >= 4, true);
    });
  });
});
