import t, { type Test } from 'tap';
import { RedisUnavailable } from '../../plugins/redis/connection.ts';
import { FOLLOW, GONE, NEWS, STOP } from '../../plugins/streams/redis/messages.ts';
import type { WritableLog } from '../../plugins/streams/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, newId, text } from './conformance.ts';
import { createReplicas, follow, type TestReplicas } from './replica-pair.ts';

/** Readers on one replica of a log that another replica produces: how long they count, and what they get. */

const END = { type: 'end', finishReason: 'stop' } as const;
/** Silence after which the producer may drop the readers of a replica, and after which it must have. */
const [MAY_DROP_MS, MUST_DROP_MS] = [3_500, 5_250];

const info = () => ({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o' });

/** Subscribes to a log and returns the number of readers after each change. */
function readerCounts(log: WritableLog): number[] {
  const counts: number[] = [];
  log.subscribe({ onReaders: (count) => counts.push(count), onStop() {}, onTakenOver() {} });
  return counts;
}

t.test('readers on another replica', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);

  /** Two replicas, and a log that A produces. */
  const setUp = async (t: Test) => {
    const replicas = await createReplicas(t, url);
    const [a, b] = [await replicas.add(), await replicas.add()];
    const log = await createLog(a.store, info());
    const { id } = log.info;
    const open = async (position = 0) => follow(await b.store.open(id), position);
    return { replicas, a, b, log, id, open, counts: readerCounts(log) };
  };

  /** Returns the reports of one replica since a message. */
  const reports = ({ messages }: TestReplicas, from: string, first = 0) =>
    messages
      .slice(first)
      .filter((message) => message.kind === FOLLOW && message.from === from)
      .flatMap(({ body }) => body as [string, number, number][]);

  t.test('a producer that cannot hear does not take silence for no readers', async (t) => {
    const { replicas, a, log, counts, open } = await setUp(t);
    const local = await follow(log);
    a.loseSubscription();
    const remote = await open(); // A does not hear of it.
    local.close();
    await replicas.advance(60_000);
    t.not(counts.at(-1), 0, 'somebody may be reading');
    void log.append(text('one'));
    await replicas.advance(2_000);
    t.equal(remote.text, 'one', 'the reader gets the text although news do not arrive either');
    a.resubscribe();
    await replicas.advance(MUST_DROP_MS);
    t.equal(counts.at(-1), 1, 'the reader is known now');
    remote.close();
    await replicas.advance(MUST_DROP_MS);
    t.equal(counts.at(-1), 0, 'and nobody else');
  });

  t.test(
    'a producer that cannot hear: logs without grace time, unsynced ones, and those of a lost Redis',
    async (t) => {
      const { replicas, a, log, counts } = await setUp(t);
      const brief = await createLog(a.store, { ...info(), graceMs: 0 });
      const briefCounts = readerCounts(brief);
      const reader = await follow(brief);
      a.loseSubscription();
      reader.close();
      t.equal(briefCounts.at(-1), 0, 'no client could come back');
      t.equal(counts.at(-1), 1);
      a.resubscribe();
      await replicas.advance(MUST_DROP_MS);
      t.equal(counts.at(-1), 0);
      a.isConnected = false;
      a.loseSubscription();
      t.equal(counts.at(-1), 0, 'without Redis no other replica can have found the stream');
      log.end(END);
    },
  );

  t.test('a stop that comes between a takeover and the subscription of its generation is not lost', async (t) => {
    for (const when of ['before', 'after', 'to the dead producer']) {
      const { replicas, a, b, log, open } = await setUp(t);
      void log.append(text('one'));
      let taken: WritableLog | undefined;
      let isStopRequested: boolean | undefined;
      b.store.onTakeover((other, _prompt, isStopped) => {
        taken = other;
        isStopRequested = isStopped;
      });
      await open();
      await replicas.settle();
      const { id } = log.info;
      if (when === 'before') await b.commands.requestStop(id);
      await a.die();
      if (when === 'to the dead producer') {
        // The request arrives while the log is being taken over.
        let isRequested = false;
        b.onCommand = (name) => {
          if (name !== 'evalsha' || isRequested) return;
          isRequested = true;
          setImmediate(() => void replicas.redis.hset(replicas.streamKey('meta', id), 'stop', 1));
        };
      }
      await replicas.advance(2_000);
      t.equal(isStopRequested, when === 'before');
      if (when === 'before') continue;
      if (when === 'after') await (await b.store.open(id))?.stop();
      await replicas.settle();
      let stops = 0;
      taken?.subscribe({ onReaders() {}, onStop: () => (stops += 1), onTakenOver() {} });
      t.equal(stops, 1, when);
    }
  });

  t.test('a stop whose message is lost is found in Redis, also if that cannot be read at first', async (t) => {
    for (const failures of [0, 1, 3]) {
      const { replicas, a, b, log, id } = await setUp(t);
      let stops = 0;
      log.subscribe({ onReaders() {}, onStop: () => (stops += 1), onTakenOver() {} });
      a.loseSubscription();
      await (await b.store.open(id))?.stop();
      await replicas.settle();
      t.equal(stops, 0, 'the message is lost');
      let left = failures;
      a.onCommand = (name) => {
        if (name === 'hget' && left-- > 0) throw new RedisUnavailable('connection lost');
      };
      a.resubscribe();
      await replicas.advance(2_000);
      t.equal(stops, 1, `${failures} failures`);
      const reads = a.sent.filter((name) => name === 'hget').length;
      await replicas.advance(2_000);
      t.equal(a.sent.filter((name) => name === 'hget').length, reads, 'read no more');
      log.end(END);
    }
  });

  t.test('requests of an ended log are not read again', async (t) => {
    const { replicas, a, log } = await setUp(t);
    a.onCommand = (name) => {
      if (name === 'hget') throw new RedisUnavailable('connection lost');
    };
    a.resubscribe();
    await replicas.advance(2_000);
    log.end(END);
    await replicas.advance(2_000);
    const reads = a.sent.filter((name) => name === 'hget').length;
    t.ok(reads > 1, 'read again until the end');
    await replicas.advance(5_000);
    t.equal(a.sent.filter((name) => name === 'hget').length, reads);
  });

  t.test('a reader that leaves and comes back to the same replica gets the rest', async (t) => {
    const { replicas, log, open } = await setUp(t);
    void log.append(text('one '));
    const first = await open();
    await replicas.settle();
    t.equal(first.text, 'one ');
    first.close();
    await replicas.settle();
    void log.append(text('two '));
    await replicas.settle();
    const second = await open(first.position);
    await replicas.settle();
    t.equal(second.text, 'two ', 'what was written in between');
    void log.append(text('three'));
    await replicas.settle();
    t.equal(second.text, 'two three', 'what is written afterwards');
    log.end(END);
    await replicas.settle();
    t.same(second.last?.terminal, END);
    t.equal(second.last?.answer, 'one two three');
  });

  t.test('a reader that comes back while its replica still reads for the first gets the rest', async (t) => {
    const { replicas, b, log, open } = await setUp(t);
    void log.append(text('one '));
    const first = await open();
    await replicas.settle();
    let resume = () => {};
    b.delay = new Promise((resolve) => {
      resume = resolve;
    });
    void log.append(text('two '));
    await replicas.settle.call(undefined).constructor; // Messages are on their way; the read of B waits.
    first.close();
    b.delay = undefined;
    resume();
    const second = await open(first.position);
    log.end(END);
    await replicas.settle();
    t.equal(second.text, 'two ');
    t.same(second.last?.terminal, END);
  });

  t.test('the last reader that leaves is reported at once, and leaves nothing behind', async (t) => {
    const { replicas, b, log, id, open, counts } = await setUp(t);
    const { clock, messages } = replicas;
    void log.append(text('one '));
    const [first, second] = [await open(), await open()];
    await replicas.settle();
    t.same(counts, [1], 'readers of one replica count as one');
    first.close();
    await replicas.settle();
    t.same(counts, [1], 'another reader is left');
    second.close();
    await replicas.settle();
    t.same(counts, [1, 0], 'the producer knows without waiting for a time-out');
    t.same(reports(replicas, b.id).at(-1), [id, 0, 4]);
    const sent = messages.length;
    await replicas.advance(10_000);
    const commands = b.sent.length;
    void log.append(text('two '));
    await replicas.advance(10_000);
    t.equal(messages.length, sent, 'no further message');
    t.equal(b.sent.length, commands, 'the replica reads nothing more');
    t.equal(clock.pending, 0, 'no timer is pending');
  });

  t.test('copies whose readers have left take no memory', async (t) => {
    const replicas = await createReplicas(t, url);
    const a = await replicas.add();
    const b = await replicas.add({ maxTotalBytes: 50_000 });
    for (let i = 0; i < 20; i++) {
      const log = await createLog(a.store, info());
      void log.append(text('x'.repeat(10_000)));
      await replicas.settle();
      const reader = await follow(await b.store.open(log.info.id));
      await replicas.settle();
      t.equal(reader.text.length, 10_000, `copy ${i}`);
      reader.close();
      await replicas.settle();
    }
  });

  t.test('a reader that stays counts for as long as its replica reports it', async (t) => {
    const { replicas, b, open, counts } = await setUp(t);
    await open();
    await replicas.advance(60_000);
    t.same(counts, [1]);
    const reported = reports(replicas, b.id).length;
    t.ok(reported >= 58 && reported <= 65, `one report a second (${reported} in a minute)`);
  });

  t.test('readers of a replica that is dead are dropped after a time-out', async (t) => {
    const { replicas, b, log, open, counts } = await setUp(t);
    const other = await createLog(b.store, info());
    const own = readerCounts(other);
    await open();
    await replicas.advance(2_000);
    await b.die();
    await replicas.advance(MAY_DROP_MS - 1_500);
    t.same(counts, [1], 'one or two lost reports drop no reader');
    await replicas.advance(MUST_DROP_MS);
    t.same(counts, [1, 0], 'the producer counts no reader');
    t.same(own, []);
    const local = await follow(log);
    t.same(counts, [1, 0, 1]);
    local.close();
  });

  t.test('a replica that reports again after the time-out counts again', async (t) => {
    const { replicas, log, open, counts } = await setUp(t);
    const reader = await open();
    replicas.isLost = ({ kind }) => kind === FOLLOW;
    await replicas.advance(10_000);
    t.same(counts, [1, 0]);
    replicas.isLost = () => false;
    await replicas.advance(1_000);
    t.same(counts, [1, 0, 1]);
    void log.append(text('one'));
    await replicas.settle();
    t.equal(reader.text, 'one', 'it gets news again');
  });

  for (const [what, disconnect] of [
    ['Redis is unavailable to the producer', { renewedForMs: 0 }],
    ['Redis has been available for less than the time-out', { renewedForMs: MAY_DROP_MS - 1 }],
    ['no message reaches the producer', { subscribedForMs: 0 }],
    ['messages have reached the producer for less than the time-out', { subscribedForMs: MAY_DROP_MS - 1 }],
  ] as const) {
    t.test(`readers are not dropped while ${what}`, async (t) => {
      const { replicas, a, open, counts } = await setUp(t);
      const setConnected = ({ renewedForMs = 60_000, subscribedForMs = 60_000 }) => {
        a.lease.renewedForMs = renewedForMs;
        a.subscribedForMs = subscribedForMs;
      };
      await open();
      setConnected(disconnect);
      replicas.isLost = () => true;
      await replicas.advance(30_000);
      t.same(counts, [1], 'no report could arrive');
      replicas.isLost = () => false;
      await replicas.advance(1_000);
      setConnected({});
      await replicas.advance(30_000);
      t.same(counts, [1], 'the replica has reported again');
    });
  }

  t.test('readers of a replica that died during an outage are dropped a time-out after it', async (t) => {
    const { replicas, a, b, open, counts } = await setUp(t);
    await open();
    a.lease.renewedForMs = 0;
    await b.die();
    await replicas.advance(20_000);
    t.same(counts, [1]);
    a.lease.renewedForMs = MAY_DROP_MS;
    await replicas.advance(MAY_DROP_MS - 500);
    t.same(counts, [1], 'the replica gets time to report');
    await replicas.advance(MUST_DROP_MS);
    t.same(counts, [1, 0]);
    t.equal(replicas.clock.pending, 0, 'the producer watches nothing any more');
  });

  t.test('readers get the text and the end within two seconds even if every message is lost', async (t) => {
    const { replicas, log, open } = await setUp(t);
    void log.append(text('one '));
    const reader = await open();
    await replicas.settle();
    replicas.isLost = () => true;
    void log.append(text('two'));
    await replicas.settle();
    t.equal(reader.text, 'one ', 'no news arrive');
    await replicas.advance(2_000);
    t.equal(reader.text, 'one two');
    log.end(END);
    await replicas.advance(2_000);
    t.same(reader.last?.terminal, END);
  });

  t.test('a report shows the producer that news were lost', async (t) => {
    const { replicas, log, open } = await setUp(t);
    const reader = await open();
    await replicas.settle();
    replicas.isLost = ({ kind }) => kind === NEWS;
    void log.append(text('one'));
    await replicas.settle();
    replicas.isLost = () => false;
    t.equal(reader.text, '');
    await replicas.advance(1_000);
    t.equal(reader.text, 'one', 'the producer repeats its news after the next report');
  });

  t.test('after a new subscription or connection readers get at once what they missed', async (t) => {
    const { replicas, b, log, open } = await setUp(t);
    const reader = await open();
    await replicas.settle();
    for (const [word, repair] of [
      ['one ', b.resubscribe],
      ['two ', b.reconnect],
    ] as const) {
      replicas.isLost = ({ kind }) => kind === NEWS;
      void log.append(text(word));
      await replicas.settle();
      t.notMatch(reader.text, word);
      const sent = replicas.messages.length;
      repair();
      await replicas.settle();
      t.match(reader.text, word);
      t.same(
        reports(replicas, b.id, sent).map(([id, readers]) => [id, readers]),
        [[log.info.id, 1]],
        'it reports again',
      );
    }
  });

  t.test('one message tells a replica about all its logs that have grown in a turn', async (t) => {
    const { replicas, a, b } = await setUp(t);
    const logs: WritableLog[] = [];
    for (let i = 0; i < 3; i++) {
      const log = await createLog(a.store, info());
      logs.push(log);
      await follow(await b.store.open(log.info.id));
    }
    await replicas.settle();
    const sent = replicas.messages.length;
    for (const log of logs) void log.append(text('x'));
    await replicas.settle();
    const news = replicas.messages.slice(sent).filter(({ kind }) => kind === NEWS);
    t.same(new Set(news.flatMap(({ body }) => body)), new Set(logs.map(({ info: { id } }) => id)));
    t.ok(news.length <= 3, 'at most one message for each write');
  });

  t.test('back-pressure: the producer waits for readers on other replicas, and goes on when one leaves', async (t) => {
    const replicas = await createReplicas(t, url);
    const settings = { highWaterMark: 100 };
    const [a, b] = [await replicas.add(settings), await replicas.add(settings)];
    const log = await createLog(a.store, info());
    const reader = await (await b.store.open(log.info.id))?.read(0);
    await replicas.settle();
    const isFull = async () => {
      let isDrained = false;
      const drained = log.append(text('x'.repeat(60)));
      if (drained === undefined) return false;
      void drained.then(() => (isDrained = true));
      await replicas.settle();
      return !isDrained;
    };
    let appended = 0;
    while (!(await isFull())) {
      appended += 60;
      if (appended > 1_000) break;
    }
    t.ok(appended <= 1_000, `the producer waits after ${appended} units`);
    await reader?.next();
    await replicas.settle();
    await replicas.advance(1_000);
    t.notOk(await isFull(), 'it goes on when the reader has read');
    while (!(await isFull()));
    const drained = log.append(text('x'));
    reader?.close();
    await replicas.settle();
    await drained;
    t.pass('it goes on when the reader has left');
  });

  t.test('a stop of another replica reaches the producer', async (t) => {
    const { replicas, b, log, id } = await setUp(t);
    let stops = 0;
    log.subscribe({ onReaders() {}, onStop: () => (stops += 1), onTakenOver() {} });
    const other = await createLog(b.store, info());
    other.subscribe({ onReaders() {}, onStop: () => t.fail('another log is stopped'), onTakenOver() {} });
    await (await b.store.open(id))?.stop();
    await replicas.settle();
    t.equal(stops, 1);
  });

  t.test('a stop at a replica that has readers reaches the producer too', async (t) => {
    const { replicas, b, log, id, open } = await setUp(t);
    let stops = 0;
    const onStop = () => {
      stops += 1;
    };
    log.subscribe({ onReaders() {}, onStop, onTakenOver() {} });
    await open();
    await replicas.settle();
    await (await b.store.open(id))?.stop();
    await replicas.settle();
    t.equal(stops, 1);
  });

  t.test('a stop whose message is lost takes effect when the producer has subscribed again', async (t) => {
    const { replicas, a, b } = await setUp(t);
    const stopped: string[] = [];
    const create = async () => {
      const log = await createLog(a.store, info());
      log.subscribe({ onReaders() {}, onStop: () => stopped.push(log.info.id), onTakenOver() {} });
      return log.info.id;
    };
    const ids = [await create(), await create(), await create()];
    replicas.isLost = ({ kind }) => kind === STOP;
    for (const id of [ids[0], ids[2]]) await (await b.store.open(id as string))?.stop();
    await replicas.settle();
    t.same(stopped, []);
    replicas.isLost = () => false;
    a.resubscribe();
    await replicas.settle();
    t.same(stopped, [ids[0], ids[2]], 'every requested stop, and no other');
  });

  t.test('a request that cannot be read does not hold up the stops of other logs', async (t) => {
    const { replicas, a, b } = await setUp(t);
    const stopped: string[] = [];
    const logs = [await createLog(a.store, info()), await createLog(a.store, info())];
    for (const log of logs)
      log.subscribe({ onReaders() {}, onStop: () => stopped.push(log.info.id), onTakenOver() {} });
    const [first, second] = logs.map((log) => log.info.id) as [string, string];
    replicas.isLost = ({ kind }) => kind === STOP;
    await (await b.store.open(second))?.stop();
    await replicas.redis.set(replicas.streamKey('meta', first), 'not a hash');
    a.resubscribe();
    await replicas.settle();
    t.same(stopped, [second]);
  });

  t.test('a replica that reads a log nobody produces gets stream_lost', async (t) => {
    const { replicas, a, b, log, id, open } = await setUp(t);
    void log.append(text('one'));
    const reader = await open();
    await replicas.settle();
    // A no longer knows the log, as after a restart within its lease.
    const restarted = await replicas.add();
    await replicas.redis.hset(replicas.streamKey('meta', id), 'producer', restarted.id);
    await a.die();
    await replicas.advance(3_000);
    const gone = replicas.messages.filter(({ kind }) => kind === GONE);
    t.same(new Set(gone.map(({ from, to }) => `${from} to ${to}`)), new Set([`${restarted.id} to ${b.id}`]));
    t.equal(reader.last, undefined, 'the first replies may be a race with a takeover');
    await replicas.advance(3_000);
    t.match(reader.last?.terminal, { type: 'error', code: 'stream_lost' });
    t.equal(reader.text, 'one');
  });

  t.test('replies that a log is gone count in a row only, and only from its producer', async (t) => {
    const { replicas, b, log, id, open } = await setUp(t);
    const c = await replicas.add();
    const reader = await open();
    await replicas.settle();
    const goneFrom = async (from: string) => {
      replicas.send({ from, to: b.id, kind: GONE, body: id });
      await replicas.settle();
    };
    const a = replicas.messages.find(({ kind }) => kind === FOLLOW)?.to as string;
    for (let i = 0; i < 5; i++) await goneFrom(c.id);
    await replicas.settle();
    t.equal(reader.last, undefined, 'replies of another replica');
    replicas.send({ from: a, to: b.id, kind: GONE, body: newId() });
    await replicas.settle();
    for (let i = 0; i < 2; i++) await goneFrom(a);
    // A takeover that moves the log to another producer and back.
    const meta = replicas.streamKey('meta', id);
    await replicas.redis.hset(meta, 'producer', c.id);
    await goneFrom(a);
    await replicas.redis.hset(meta, 'producer', a);
    for (let i = 0; i < 5; i++) await goneFrom(a);
    t.equal(reader.last, undefined, 'the log is known to have another producer');
    await goneFrom(c.id);
    for (let i = 0; i < 2; i++) await goneFrom(a);
    void log.append(text('one'));
    await replicas.settle();
    t.equal(reader.last, undefined, 'two replies of the new producer');
    t.equal(reader.text, 'one');
    await goneFrom(a);
    t.match(reader.last, { terminal: { code: 'stream_lost' } }, 'three replies');
  });

  t.test('a stream of another replica is resumable if it has a grace time', async (t) => {
    const { a, b, id } = await setUp(t);
    t.equal((await b.store.open(id))?.resumable, true);
    const log = await createLog(a.store, { ...info(), graceMs: 0 });
    t.equal((await b.store.open(log.info.id))?.resumable, false);
  });

  t.test('a replica with readers asks Redis rarely while nothing happens', async (t) => {
    const { replicas, b, open } = await setUp(t);
    await open();
    await replicas.settle();
    const before = b.sent.length;
    await replicas.advance(20_000);
    const count = (name: string) => b.sent.slice(before).filter((sent) => sent === name).length;
    t.equal(count('xrange'), 10, 'a read every two seconds');
    t.equal(count('exists'), 40, 'a look at the lease of the producer every half second');
    t.equal(count('evalsha'), 0, 'no attempt to take over from a producer that lives');
  });

  t.test('reports come every second, at full seconds', async (t) => {
    const { replicas, b, open } = await setUp(t);
    await open();
    await replicas.settle();
    const counts: number[] = [];
    for (let i = 0; i < 4; i++) {
      const sent = replicas.messages.length;
      await replicas.advance(500);
      counts.push(reports(replicas, b.id, sent).length);
    }
    t.same(counts, [0, 1, 0, 1]);
  });

  t.test('a replica that missed the end of a log gets it after its next report', async (t) => {
    const { replicas, log, open } = await setUp(t);
    void log.append(text('one '));
    const reader = await open();
    await replicas.settle();
    replicas.isLost = ({ kind }) => kind === NEWS;
    void log.append(text('two'));
    log.end(END);
    await replicas.settle();
    replicas.isLost = () => false;
    await replicas.advance(1_000);
    t.same(reader.last?.terminal, END);
    t.equal(reader.text, 'one two');
  });
});
