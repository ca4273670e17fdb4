import t, { type Test } from 'tap';
import type { MemoryLog } from '../../plugins/streams/memory/log.ts';
import { MemoryStore, type MemoryStoreOptions } from '../../plugins/streams/memory/store.ts';
import {
  type ProducerEvents,
  type Slice,
  StoreFull,
  type StreamInfo,
  type Terminal,
} from '../../plugins/streams/types.ts';
import type { ContentPart } from '../../providers/types.ts';
import { refusal } from '../limits/bare-limits.ts';
import { manualClock } from '../manual-clock.ts';
import { newId, text } from './conformance.ts';

/** Tests a log in memory beyond the interface of every store, and the bounds of its store. */

const END: Terminal = { type: 'end', finishReason: 'stop' };
const TTL_MS = 1_000;
/** Bytes that the store counts for a log in addition to its content, and for each unit of it. */
const LOG_BYTES = 2_048;
const UNIT_BYTES = 2;
const BOUNDARY_BYTES = 8;

function setUp(t: Test, options: Partial<MemoryStoreOptions> = {}) {
  const clock = manualClock();
  let evicted = 0;
  const store = new MemoryStore({
    clock,
    highWaterMark: 100,
    flushMs: 10,
    ttlMs: TTL_MS,
    maxTotalBytes: 1e9,
    onEvicted: () => (evicted += 1),
    ...options,
  });
  t.teardown(() => store.close());
  const add = (info: Partial<StreamInfo> = {}) =>
    store.add({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o', ...info });
  return { clock, store, add, evicted: () => evicted };
}

/** Subscribes to a log, and returns the events that it reports. */
function recordEvents(log: MemoryLog): string[] {
  const events: string[] = [];
  const listener: ProducerEvents = {
    onReaders: (count) => events.push(`${count} readers`),
    onStop: () => events.push('stop'),
    onTakenOver: () => events.push('taken over'),
  };
  log.subscribe(listener);
  return events;
}

/** Returns the slice that a reader has got by now; undefined if it still waits. */
async function delivered(next: Promise<Slice>): Promise<Slice | undefined> {
  const turn = new Promise<undefined>((resolve) => setImmediate(() => resolve(undefined)));
  return Promise.race([next, turn]);
}

const textOf = (slice: Slice | undefined) =>
  slice?.parts.map(({ part }) => (part.type === 'tool_call' ? part.arguments : part.text)).join('');

t.test('a producer that subscribes late is told how many readers there are', async (t) => {
  const { add } = setUp(t);
  const log = add();
  await log.read(0);
  const reader = await log.read(0);
  const events = recordEvents(log);
  t.same(events, ['2 readers']);
  reader.close();
  t.same(events, ['2 readers', '1 readers']);
  t.equal(log.hasConsumers, true);
  const unread = add();
  t.same(recordEvents(unread), [], 'and nothing if there is none');
  t.equal(unread.hasConsumers, false);
});

t.test('after a takeover the producer hears nothing more, and does not wait for readers', async (t) => {
  const { add } = setUp(t);
  const log = add();
  const events = recordEvents(log);
  const reader = await log.read(0);
  const drained = log.append(text('x'.repeat(101)));
  t.ok(drained, 'the producer waits for its reader');
  log.onTakenOver();
  await drained;
  log.onTakenOver();
  await log.stop();
  reader.close();
  t.same(events, ['1 readers', 'taken over']);
});

t.test('after the end of a log its producer hears nothing more', async (t) => {
  const { add } = setUp(t);
  const log = add();
  const events = recordEvents(log);
  const reader = await log.read(0);
  log.end(END);
  reader.close();
  await log.stop();
  log.onTakenOver();
  (await log.read(0)).close();
  t.same(events, ['1 readers']);
  log.end({ ...END, finishReason: 'length' });
  t.equal(log.terminal, END, 'a second end changes nothing');
  t.equal(log.ended, true);
});

t.test('a change of `resumable` wakes readers once, and a stream without grace time never changes', async (t) => {
  const { add, clock } = setUp(t);
  const log = add();
  const reader = await log.read(0);
  const next = reader.next();
  log.setResumable(true);
  t.equal(await delivered(next), undefined, 'no change, no slice');
  log.setResumable(false);
  t.same(await next, { parts: [], resumable: false });
  t.equal(log.resumable, false);
  const second = reader.next();
  t.equal(await delivered(second), undefined, 'it is told once');
  clock.advance(10);
  void log.append(text('a'));
  const slice = await second;
  t.equal(slice.resumable, undefined, 'the next slice does not repeat it');
  const third = reader.next();
  clock.advance(10);
  log.setResumable(true);
  t.same(await third, { parts: [], resumable: true });
  const late = await log.read(0);
  t.equal((await late.next()).resumable, undefined, 'a new reader knows the present value');

  const fixed = add({ graceMs: 0 });
  t.equal(fixed.resumable, false);
  const waiting = (await fixed.read(0)).next();
  fixed.setResumable(true);
  t.equal(fixed.resumable, false);
  t.equal(await delivered(waiting), undefined);
});

t.test('a reader that is far behind does not wait for the flush interval', async (t) => {
  const { add, clock } = setUp(t);
  const log = add();
  const reader = await log.read(0);
  void log.append(text('a'));
  await reader.next();
  const next = reader.next();
  void log.append(text('x'.repeat(99)));
  t.equal(await delivered(next), undefined, 'below the high-water mark it waits');
  t.equal(clock.pending, 1, 'with one timer');
  void log.append(text('x'));
  t.equal(textOf(await delivered(next))?.length, 100, 'at the high-water mark it does not');
  t.equal(clock.pending, 0, 'and the timer is cancelled');
});

t.test('a closed reader gets nothing, and leaves no timer', async (t) => {
  const { add, clock } = setUp(t);
  const log = add();
  const reader = await log.read(0);
  void log.append(text('a'));
  await reader.next();
  const next = reader.next();
  void log.append(text('b'));
  t.equal(clock.pending, 1, 'the reader waits for the interval');
  reader.close();
  t.equal(clock.pending, 0);
  void log.append(text('c'));
  log.end(END);
  t.equal(await delivered(next), undefined, 'a pending read never settles');
});

t.test('a slice is at most the high-water mark, or 4,096 units if that is more', async (t) => {
  for (const [highWaterMark, expected] of [
    [100, 4_096],
    [100_000, 100_000],
  ] as const) {
    const { add } = setUp(t, { highWaterMark });
    const log = add();
    void log.append(text('x'.repeat(150_000)));
    log.end(END);
    const reader = await log.read(0);
    const first = await reader.next();
    t.equal(textOf(first)?.length, expected, `the first slice with a high-water mark of ${highWaterMark}`);
    t.equal(first.parts.at(-1)?.position, expected, 'its position');
    t.equal(first.terminal, undefined, 'the terminal comes with the last slice');
    t.equal(first.answer, undefined, 'and the answer too');
    let last = first;
    while (last.terminal === undefined) last = await reader.next();
    t.equal(last.answer?.length, 150_000);
  }
});

t.test('an error has no answer', async (t) => {
  const { add } = setUp(t);
  const log = add();
  void log.append(text('partial'));
  log.end({ type: 'error', code: 'c', message: 'm', retryable: false, status: 502 });
  const slice = await (await log.read(0)).next();
  t.equal(textOf(slice), 'partial');
  t.notOk('answer' in slice);
});

t.test('drained() counts units that no reader sees yet', async (t) => {
  const { add } = setUp(t);
  const log = add();
  t.equal(log.drained(1_000), undefined, 'without readers nothing waits');
  const reader = await log.read(0);
  t.equal(log.drained(100), undefined, 'at the high-water mark');
  const drained = log.drained(101);
  t.ok(drained, 'above it');
  t.equal(log.drained(101), drained, 'one promise for all that wait');
  reader.close();
  await drained;
  log.end(END);
  t.equal(log.drained(1_000), undefined, 'after the end');
});

t.test('the store counts the content of each log, and refuses a log that does not fit', async (t) => {
  const logs = 3;
  const maxTotalBytes = logs * LOG_BYTES + 10 * UNIT_BYTES + 2 * BOUNDARY_BYTES;
  const { add } = setUp(t, { maxTotalBytes });
  const added = Array.from({ length: logs - 1 }, () => add());
  void added[0]?.append(text('x'.repeat(5)));
  void added[0]?.append(text('x'.repeat(5)));
  add();
  t.pass('the last log fits exactly');
  t.throws(() => add(), StoreFull, 'another does not');
  for (const [sizes, what] of [
    [[5, 6], 'one unit'],
    [[5, 4, 1], 'one boundary'],
  ] as const) {
    const { add: addSmaller } = setUp(t, { maxTotalBytes });
    const smaller = Array.from({ length: logs - 1 }, () => addSmaller());
    for (const size of sizes) void smaller[0]?.append(text('x'.repeat(size)));
    t.throws(() => addSmaller(), StoreFull, `a log does not fit by ${what}`);
  }
});

t.test('the store counts the context of a log', async (t) => {
  const context = 'x'.repeat(1_000);
  const maxTotalBytes = 2 * LOG_BYTES + 1_000 * UNIT_BYTES;
  const { add } = setUp(t, { maxTotalBytes });
  add({ context });
  add();
  t.pass('another log fits exactly');
  const { add: addFirst } = setUp(t, { maxTotalBytes: maxTotalBytes - 1 });
  addFirst({ context });
  t.throws(() => addFirst(), StoreFull, 'another does not');
  const { add: addLast } = setUp(t, { maxTotalBytes: maxTotalBytes - 1 });
  addLast();
  t.throws(() => addLast({ context }), StoreFull, 'a log with a context does not');
});

t.test('memory is free again after an eviction, an expiry and a removal', async (t) => {
  const { clock, store, add, evicted } = setUp(t, {
    maxTotalBytes: 2 * (LOG_BYTES + 500 * UNIT_BYTES + BOUNDARY_BYTES),
  });
  const fill = () => {
    const log = add();
    void log.append(text('x'.repeat(500)));
    return log;
  };
  for (let round = 0; round < 5; round++) {
    const log = fill();
    fill().end(END);
    t.equal(store.has(log), true, 'a running log is not evicted');
    log.end(END);
    clock.advance(TTL_MS);
    t.equal(store.has(log), false, 'an ended one expires');
  }
  const before = evicted();
  for (let round = 0; round < 5; round++) {
    const log = fill();
    store.remove(log);
    store.remove(log);
    t.equal(store.has(log), false, 'a removed log is gone');
    void log.append(text('x'.repeat(5_000)));
    log.end(END);
  }
  t.equal(evicted(), before, 'a removed log takes no memory, whatever is written to it');
  t.equal(clock.pending, 0, 'and does not expire');
  const first = fill();
  first.end(END);
  fill();
  t.equal(store.has(first), true, 'the store is not full');
  fill();
  t.equal(store.has(first), false, 'now the ended log is evicted');
  t.equal(evicted(), before + 1);
});

t.test('a log that outgrows the bound by itself is evicted when it ends', async (t) => {
  const { store, add, evicted } = setUp(t, { maxTotalBytes: LOG_BYTES + 100 });
  const log = add();
  void log.append(text('x'.repeat(1_000)));
  t.equal(store.has(log), true, 'while it runs it stays');
  t.throws(() => add(), StoreFull);
  log.end(END);
  t.equal(store.has(log), false);
  t.equal(evicted(), 1);
  add();
  t.pass('there is memory for another log');
});

t.test('ended logs expire one by one, by one timer', async (t) => {
  const { clock, store, add } = setUp(t);
  const [first, second, third] = [add(), add(), add()];
  second.end(END);
  clock.advance(400);
  first.end(END);
  third.end(END);
  t.equal(clock.pending, 1);
  clock.advance(599);
  t.equal(store.has(second), true);
  clock.advance(1);
  t.same([store.has(second), store.has(first), store.has(third)], [false, true, true], 'the first to end');
  t.equal(clock.pending, 1);
  clock.advance(399);
  t.same([store.has(first), store.has(third)], [true, true]);
  clock.advance(1);
  t.same([store.has(first), store.has(third)], [false, false], 'the others');
  t.equal(clock.pending, 0);
});

t.test('a key and a conversation go with their log, and not with an older one', async (t) => {
  const { store } = setUp(t);
  const idempotency = { key: 'k', fingerprint: 'f' };
  const info = () => ({ id: newId(), model: 'm', graceMs: 0, owner: 'o', chat: 'c' });
  const old = store.add(info(), idempotency);
  t.equal(store.findByKey(idempotency), old);
  t.match(await refusal((async () => store.findByKey({ key: 'k', fingerprint: 'g' }))()), {}, 'another question');
  store.remove(old);
  t.equal(store.findByKey(idempotency), undefined, 'the key goes with the log');
  t.equal(await store.openByChat('c'), undefined, 'and the conversation');
  const first = store.add(info());
  const second = store.add(info());
  store.remove(first);
  t.equal(await store.openByChat('c'), second, 'a removed older answer');
  second.end(END);
  t.equal(await store.openByChat('c'), undefined, 'an ended answer');
});

t.test('a log with the id of another is not mistaken for it', async (t) => {
  const { store, add } = setUp(t, { maxTotalBytes: 3 * LOG_BYTES });
  const id = newId();
  const old = add({ id });
  store.remove(old);
  const current = add({ id });
  void old.append(text('x'.repeat(10_000)));
  add();
  t.pass('what is written to the old log is not counted');
  old.end(END);
  store.remove(old);
  t.equal(store.get(id), current);
  t.equal(store.has(old), false);
});

t.test('a closed store holds nothing and sets no timer', async (t) => {
  const { clock, store, add } = setUp(t);
  const idempotency = { key: 'k', fingerprint: 'f' };
  const ended = store.add({ id: newId(), model: 'm', graceMs: 0, owner: 'o' }, idempotency);
  ended.end(END);
  const running = add({ chat: 'c' });
  await store.close();
  t.equal(clock.pending, 0);
  t.equal(store.get(ended.info.id), undefined);
  t.equal(store.findByKey(idempotency), undefined);
  t.equal(await store.openByChat('c'), undefined);
  running.end(END);
  t.equal(clock.pending, 0, 'a log that ends afterwards does not expire');
});

t.test('tool calls are parts of their own, each with a position', async (t) => {
  const { add } = setUp(t);
  const log = add();
  const parts: ContentPart[] = [
    { type: 'tool_call', index: 0, id: 'i', name: 'f', arguments: '{' },
    { type: 'tool_call', index: 0, arguments: '}' },
    { type: 'tool_call', index: 1, name: 'g', arguments: '' },
  ];
  for (const part of parts) void log.append(part);
  const slice = await (await log.read(0)).next();
  t.same(slice.parts, [
    { part: { type: 'tool_call', index: 0, id: 'i', name: 'f', arguments: '{}' }, position: 3 },
    { part: { type: 'tool_call', index: 1, name: 'g', arguments: '' }, position: 4 },
  ]);
});
