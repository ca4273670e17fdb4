import t, { type Test } from 'tap';
import type { Cluster } from '../../plugins/redis/index.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { StreamCommands, Takeover } from '../../plugins/streams/redis/commands.ts';
import type { LogEntry } from '../../plugins/streams/redis/entries.ts';
import { FOLLOW, type Follow, NEWS } from '../../plugins/streams/redis/messages.ts';
import { ReplicaWatcher } from '../../plugins/streams/redis/replica/watcher.ts';
import { manualClock } from '../manual-clock.ts';

const HIGH_WATER_MARK = 1_000;
const ENTRY_UNITS = 400;
const TICK_MS = 500;
const PRODUCER = { replica: 'producer', epoch: 1 };
const INFO = { id: 'stream', model: 'm', graceMs: 0, owner: '' };

/** A watcher whose Redis is an array of entries and whose mailbox keeps what is sent. */
function setUp({ isProducerAlive = true } = {}) {
  const clock = manualClock();
  const entries: LogEntry[] = [];
  const reports: Follow[number][] = [];
  const takenOver: Takeover[] = [];
  let onTakeOver = () => {};
  let onNews = (_from: string, _ids: unknown) => {};
  let readable = Promise.resolve();
  const commands = {
    entriesAfter: async (_: string, last: string) => {
      await readable;
      return entries.slice(entries.findIndex(({ id }) => id === last) + 1);
    },
    meta: async () => ({ ...PRODUCER, info: INFO }),
    isAlive: async () => isProducerAlive,
    takeOver: async () => {
      onTakeOver();
      return { epoch: 2, position: entries.at(-1)?.position ?? 0 };
    },
  } as unknown as StreamCommands;
  const mailbox = {
    on(type: string, handler: typeof onNews) {
      if (type === NEWS) onNews = handler;
    },
    onSubscribed() {},
    send: (_: string, type: string, body: Follow) => type === FOLLOW && reports.push(...body),
  };
  const cluster = { mailbox, connection: { onAvailable() {} }, lease: { renewedForMs: 60_000 } } as unknown as Cluster;
  const local = new MemoryStore({
    clock,
    highWaterMark: HIGH_WATER_MARK,
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
  const append = (terminal?: LogEntry['terminal']) => {
    const position = (entries.at(-1)?.position ?? 0) + (terminal ? 0 : ENTRY_UNITS);
    const parts = terminal ? [] : [{ type: 'text' as const, text: 'x'.repeat(ENTRY_UNITS) }];
    entries.push({ id: `1-${entries.length + 1}`, position, parts, terminal });
  };
  return {
    clock,
    local,
    reports,
    takenOver,
    append,
    sendNews: () => onNews(PRODUCER.replica, [INFO.id]),
    /** Delays reads from Redis until the returned function is called. */
    delayReads: () => {
      let resume = () => {};
      readable = new Promise((resolve) => {
        resume = resolve;
      });
      return resume;
    },
    read: () => watcher.read(INFO, PRODUCER, 0),
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
  const { clock, local, reports, takenOver, append, read } = setUp({ isProducerAlive: false });
  append();
  const reader = await read();
  await settle();
  clock.advance(TICK_MS);
  await settle();
  t.strictSame(takenOver, [{ epoch: 2, position: ENTRY_UNITS }], 'this replica has taken the log over');
  const reported = reports.length;
  reader.close();
  t.ok(local.get(INFO.id), 'the log is stored: its new producer decides when it ends');
  t.equal(reports.length, reported, 'the dead producer gets no report');
});

t.test('a takeover during which the last reader leaves hands the log to its new producer', async (t: Test) => {
  const { clock, takenOver, reports, append, read, whenTakenOver } = setUp({ isProducerAlive: false });
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
  clock.advance(TICK_MS);
  await settle();
  t.equal(takenOver.length, 1, 'the log is handed over');
  clock.advance(10 * TICK_MS);
  await settle();
  t.equal(reports.length, reported, 'nothing is reported after the last reader has left');
  t.strictSame(lastReport(reports), [INFO.id, 0], 'the last report says that no reader is left');
  t.equal(clock.pending, 0, 'no timer is pending');
});

t.test('a read that is running during a takeover adds nothing to the log of the new producer', async (t: Test) => {
  const { clock, local, takenOver, append, read, whenTakenOver, sendNews, delayReads } = setUp({
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
  clock.advance(TICK_MS);
  await settle();
  t.equal(takenOver.length, 1, 'this replica has taken the log over');
  append(); // Written to Redis by the new producer, whose log in memory has it already.
  resumeReads();
  await settle();
  t.equal(local.get(INFO.id)?.length, ENTRY_UNITS, 'the log has not grown');
  reader.close();
});
