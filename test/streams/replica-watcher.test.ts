import t, { type Test } from 'tap';
import type { Cluster } from '../../plugins/redis/index.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { StreamCommands, Takeover } from '../../plugins/streams/redis/commands.ts';
import type { LogEntry } from '../../plugins/streams/redis/entries.ts';
import { ALIVE, FOLLOW, type Follow, NEWS, RELEASED } from '../../plugins/streams/redis/messages.ts';
import { ReplicaWatcher } from '../../plugins/streams/redis/replica/watcher.ts';
import { manualClock } from '../manual-clock.ts';

const HIGH_WATER_MARK = 1_000;
const ENTRY_UNITS = 400;
const TICK_MS = 500;
/** Looks at a missing lease until its replica counts as dead: the last is at least 1.5 s after the first. */
const LOOKS_TO_DEATH = 4;
const PRODUCER = { replica: 'producer', epoch: 1 };
const INFO = { id: 'stream', model: 'm', graceMs: 0, owner: '' };

/** A watcher whose Redis is an array of entries and whose mailbox keeps what is sent. */
function setUp({ isProducerAlive = true as boolean | (() => boolean), highWaterMark = HIGH_WATER_MARK } = {}) {
  const clock = manualClock();
  const entries: LogEntry[] = [];
  /** Numbers of entries that were read at once. */
  const reads: number[] = [];
  const reports: Follow[number][] = [];
  const takenOver: Takeover[] = [];
  let onTakeOver = () => {};
  let onNews = (_from: string, _ids: unknown) => {};
  let onAlive = (_from: string, _body: unknown) => {};
  let onReleased = (_from: string, _id: unknown) => {};
  let readable = Promise.resolve();
  const commands = {
    entriesAfter: async (_: string, last: string, count: number) => {
      await readable;
      const first = entries.findIndex(({ id }) => id === last) + 1;
      const found = entries.slice(first, first + count);
      reads.push(found.length);
      return found;
    },
    meta: async () => ({ ...PRODUCER, info: INFO }),
    isAlive: async () => (typeof isProducerAlive === 'function' ? isProducerAlive() : isProducerAlive),
    takeOver: async () => {
      onTakeOver();
      return { epoch: 2, position: entries.at(-1)?.position ?? 0 };
    },
  } as unknown as StreamCommands;
  const mailbox = {
    on(type: string, handler: typeof onNews) {
      if (type === NEWS) onNews = handler;
      if (type === RELEASED) onReleased = handler;
      if (type === ALIVE) onAlive = handler;
    },
    onSubscribed() {},
    send: (_: string, type: string, body: Follow) => type === FOLLOW && reports.push(...body),
  };
  const lease = { renewedForMs: 60_000 };
  const cluster = { mailbox, connection: { onAvailable() {}, isAvailable: true }, lease } as unknown as Cluster;
  const local = new MemoryStore({
    clock,
    highWaterMark,
    flushMs: 0,
    ttlMs: 60_000,
    maxTotalBytes: 1e9,
    onEvicted() {},
  });
  const watcher = new ReplicaWatcher({
    cluster,
    clock,
    commands,
    local,
    progressUnits: HIGH_WATER_MARK / 2,
    onTakenOverHere: (_, takeover) => takenOver.push(takeover),
  });
  /** Adds an entry to the log in Redis. */
  const append = (terminal?: LogEntry['terminal'], units = ENTRY_UNITS) => {
    const position = (entries.at(-1)?.position ?? 0) + (terminal ? 0 : units);
    const parts = terminal ? [] : [{ part: { type: 'text' as const, text: 'x'.repeat(units) } }];
    entries.push({ id: `1-${entries.length + 1}`, position, parts, terminal });
  };
  return {
    clock,
    local,
    reports,
    reads,
    takenOver,
    append,
    lease,
    /** Lets the given number of looks at the lease of the producer happen. */
    look: async (times = 1) => {
      for (let i = 0; i < times; i++) {
        clock.advance(TICK_MS);
        await settle();
      }
    },
    sendAlive: () => onAlive(PRODUCER.replica, ''),
    sendReleased: (from = PRODUCER.replica, id = INFO.id) => onReleased(from, id),
    sendNews: () => onNews(PRODUCER.replica, [INFO.id]),
    /** Delays reads from Redis until the returned function is called. */
    delayReads: () => {
      let resume = () => {};
      readable = new Promise((resolve) => {
        resume = resolve;
      });
      return resume;
    },
    read: async (info = INFO) => watcher.copyOf(info, PRODUCER).read(0),
    whenTakenOver: (action: () => void) => {
      onTakeOver = action;
    },
  };
}

/** Lets every pending promise settle. */
async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise(setImmediate);
}

const lastReport = (reports: readonly Follow[number][]) => reports.at(-1)?.slice(0, 2);

t.test(
  'a copy whose only reader leaves while its tail waits is reported with no readers, and never again',
  async (t: Test) => {
    const { clock, local, reports, append, read } = setUp();
    for (let i = 0; i < 3; i++) append();
    const reader = await read();
    await settle();
    t.ok((local.get(INFO.id)?.length ?? 0) > HIGH_WATER_MARK, 'the copy is past the high-water mark of its reader');
    reader.close();
    t.strictSame(lastReport(reports), [INFO.id, 0], 'the producer learns that no reader is left');
    const reported = reports.length;
    await settle();
    clock.advance(10 * TICK_MS);
    await settle();
    t.equal(reports.length, reported, 'nothing is reported after that');
    t.equal(local.get(INFO.id), undefined, 'the copy is removed');
    t.equal(clock.pending, 0, 'no timer is pending');
  },
);

t.test('a complete copy is not reported for later readers', async (t: Test) => {
  const { clock, local, reports, append, read } = setUp();
  append();
  append({ type: 'end', usage: undefined } as unknown as LogEntry['terminal']);
  const first = await read();
  await first.next();
  await settle();
  clock.advance(TICK_MS);
  t.ok(local.get(INFO.id)?.ended, 'the copy is complete');
  const reported = reports.length;
  const second = await read();
  await settle();
  second.close();
  clock.advance(10 * TICK_MS);
  await settle();
  t.equal(reports.length, reported, 'nothing is reported for the second reader');
  first.close();
});

t.test('a log that is taken over here stays when its last reader leaves', async (t: Test) => {
  const { look, local, reports, takenOver, append, read } = setUp({ isProducerAlive: false });
  append();
  const reader = await read();
  await settle();
  await look(LOOKS_TO_DEATH);
  t.strictSame(takenOver, [{ epoch: 2, position: ENTRY_UNITS }], 'this replica has taken the log over');
  const reported = reports.length;
  reader.close();
  t.ok(local.get(INFO.id), 'the log is stored: its new producer decides when it ends');
  t.equal(reports.length, reported, 'the dead producer gets no report');
});

t.test('a takeover during which the last reader leaves hands the log to its new producer', async (t: Test) => {
  const { clock, look, takenOver, reports, append, read, whenTakenOver } = setUp({ isProducerAlive: false });
  append();
  const reader = await read();
  await settle();
  let reported = 0;
  whenTakenOver(() => {
    // The read of these entries counts as a reader, for which nothing may be reported.
    append();
    append();
    reader.close();
    reported = reports.length;
  });
  await look(LOOKS_TO_DEATH);
  t.equal(takenOver.length, 1, 'the log is handed over');
  clock.advance(10 * TICK_MS);
  await settle();
  t.equal(reports.length, reported, 'nothing is reported after the last reader has left');
  t.strictSame(lastReport(reports), [INFO.id, 0], 'the last report says that no reader is left');
  t.equal(clock.pending, 0, 'no timer is pending');
});

t.test('a read that is running during a takeover adds nothing to the log of the new producer', async (t: Test) => {
  const { look, local, takenOver, append, read, whenTakenOver, sendNews, delayReads } = setUp({
    isProducerAlive: false,
  });
  append();
  const reader = await read();
  await settle();
  let resumeReads = () => {};
  whenTakenOver(() => {
    resumeReads = delayReads();
    sendNews();
  });
  await look(LOOKS_TO_DEATH);
  t.equal(takenOver.length, 1, 'this replica has taken the log over');
  append(); // Written to Redis by the new producer, whose log in memory has it already.
  resumeReads();
  await settle();
  t.equal(local.get(INFO.id)?.length, ENTRY_UNITS, 'the log has not grown');
  reader.close();
});

t.test('a producer is dead when each look of at least 1.5 s has found no lease', async (t: Test) => {
  const looks: boolean[] = [];
  const { look, takenOver, append, read, lease } = setUp({ isProducerAlive: () => looks.shift() ?? false });
  append();
  const reader = await read();
  await settle();
  looks.push(false, true, false, false, false, true, false, false, false);
  await look(9);
  t.same(takenOver, [], 'a lease that is there again, again and again');
  lease.renewedForMs = 1_000;
  await look();
  lease.renewedForMs = 60_000;
  await look(3);
  t.same(takenOver, [], 'looks before a pause of this replica do not count');
  await look();
  t.equal(takenOver.length, 1);
  reader.close();
});

t.test('a log that its producer has released is taken over at once', async (t: Test) => {
  const { takenOver, append, read, sendReleased } = setUp();
  append();
  const reader = await read();
  await settle();
  sendReleased('another replica');
  sendReleased(PRODUCER.replica, 'another log');
  await settle();
  t.same(takenOver, []);
  sendReleased();
  await settle();
  t.equal(takenOver.length, 1);
  reader.close();
});

t.test('a producer whose lease is deleted again and again is alive as long as it replies', async (t: Test) => {
  const { look, takenOver, append, read, sendAlive } = setUp({ isProducerAlive: false });
  append();
  const reader = await read();
  await settle();
  for (let i = 0; i < 10; i++) {
    await look(LOOKS_TO_DEATH - 1);
    sendAlive();
  }
  t.same(takenOver, []);
  await look(LOOKS_TO_DEATH);
  t.equal(takenOver.length, 1, 'until it does not reply any more');
  reader.close();
});

t.test('reads are bounded in size: their number of entries follows the entries that came', async (t: Test) => {
  for (const [units, atMost] of [
    [60_000, 2],
    [10_000, 13],
    [10, 64],
  ] as const) {
    const { append, read, reads } = setUp({ highWaterMark: 1e9 });
    for (let i = 0; i < 300; i++) append(undefined, units);
    const reader = await read();
    for (let i = 0; i < 20; i++) await settle();
    t.equal(reads[0], 16, 'the first read');
    t.ok(Math.max(...reads.slice(1)) === atMost, `${units} units: ${reads}`);
    t.equal(
      reads.reduce((sum, count) => sum + count, 0),
      300,
      'everything is read once',
    );
    reader.close();
  }
});

t.test('a look at many logs of one producer takes time in proportion to their number', async (t: Test) => {
  const timeOf = async (count: number) => {
    const { clock, read } = setUp();
    for (let i = 0; i < count; i++) void read({ ...INFO, id: `stream ${i}` });
    await settle();
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 5; i++) {
      const startedAt = performance.now();
      clock.advance(TICK_MS);
      best = Math.min(best, performance.now() - startedAt);
      await settle();
    }
    return best;
  };
  await timeOf(200);
  const [few, many] = [await timeOf(750), await timeOf(3_000)];
  // A look that compares all logs with one another takes longer than that.
  const negligibleMs = 5;
  t.ok(
    many <= Math.max(negligibleMs, 10 * few),
    `${few} ms for 750 logs, ${many} ms for 3,000: four times as many, not sixteen times`,
  );
});
