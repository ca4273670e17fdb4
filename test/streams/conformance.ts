import { randomBytes } from 'node:crypto';
import type { Test } from 'tap';
import type { LogReader, Slice, StreamInfo, StreamStore, Terminal, WritableLog } from '../../plugins/streams/types.ts';
import { KeyConflict, PositionUnknown, StoreFull } from '../../plugins/streams/types.ts';
import type { MergedPart } from '../../plugins/streams/units.ts';
import type { ContentPart } from '../../providers/types.ts';
import { until } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';

/** The tests that every store must pass. */

export interface StoreSettings {
  readonly clock: ManualClock;
  readonly highWaterMark: number;
  readonly flushMs: number;
  readonly ttlMs: number;
  readonly maxTotalBytes: number;
  onEvicted(): void;
}

export interface StoreUnderTest {
  readonly store: StreamStore;
  /** Shortens the time to live of data outside this process, as the clock does for data in it. */
  age?(ms: number): Promise<void>;
  /** True if a log that is evicted from memory can still be read from elsewhere. */
  readonly keepsEvictedLogs?: boolean;
}

export const TTL_MS = 300_000;
const END: Terminal = { type: 'end', finishReason: 'stop' };
/** An error that passes. */
const FAILURE: Terminal = { type: 'error', code: 'upstream_failed', message: 'm', status: 502, retryable: true };

export const text = (content: string): ContentPart => ({ type: 'text', text: content });
const reasoning = (content: string): ContentPart => ({ type: 'reasoning', text: content });
const toolArguments = (args: string, index = 0): ContentPart => ({ type: 'tool_call', index, arguments: args });
const toolCallHead = (name: string): ContentPart => ({ type: 'tool_call', index: 0, id: 'i', name, arguments: '' });

/** Returns parts that are one append each. */
export const merged = (...parts: ContentPart[]): MergedPart[] => parts.map((part) => ({ part }));

export const newId = () => randomBytes(16).toString('base64url');

/** Creates a log. Throws if the store returns an existing one. */
export async function createLog(store: StreamStore, info: StreamInfo): Promise<WritableLog> {
  const { log, created } = await store.create(info);
  if (!created) throw new Error('the store found a log instead of creating one');
  return log;
}

const info = (graceMs = 15_000) => ({ id: newId(), model: 'm', graceMs, owner: 'o' });

export function storeConformance(
  t: Test,
  createStore: (t: Test, settings: StoreSettings) => Promise<StoreUnderTest>,
): void {
  const setUp = async (t: Test, settings: Partial<StoreSettings> = {}) => {
    const clock = manualClock();
    let evicted = 0;
    const onEvicted = () => {
      evicted += 1;
    };
    const underTest = await createStore(t, {
      clock,
      highWaterMark: 100,
      flushMs: 0,
      ttlMs: TTL_MS,
      maxTotalBytes: 1e8,
      onEvicted,
      ...settings,
    });
    const { store } = underTest;
    t.teardown(() => store.close());
    const create = () => createLog(store, info());
    const advance = async (ms: number) => {
      await underTest.age?.(ms);
      clock.advance(ms);
    };
    return { ...underTest, clock, advance, create, evicted: () => evicted };
  };

  t.test('a reader from any position gets the rest, with adjacent content merged', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    const parts = [
      reasoning('thin'),
      reasoning('king'),
      text('你'),
      text('好 🚀'),
      toolCallHead('add'),
      toolArguments('{"a"'),
      toolArguments(':1}'),
      toolArguments('{}', 1),
      text('end'),
    ];
    for (const part of parts) void log.append(part);
    const all = 'thinking你好 🚀#{"a":1}{}end';
    for (let from = 0; from < log.length; from++) {
      const reader = await log.read(from);
      let got = '';
      while (got.length < all.length - from) got += units(partsOf(await reader.next()));
      t.equal(got, all.slice(from), `from ${from}, while the log runs`);
      reader.close();
    }
    log.end(END);
    const whole = await readAll(await log.read(0));
    t.same(whole.parts, [
      reasoning('thinking'),
      text('你好 🚀'),
      { ...toolCallHead('add'), arguments: '{"a":1}' },
      toolArguments('{}', 1),
      text('end'),
    ]);
    t.equal(whole.answer, '你好 🚀end');
    t.same(whole.terminal, END);
    t.equal(log.length, all.length);
    for (let from = 0; from <= log.length; from++) {
      const rest = await readAll(await log.read(from));
      t.equal(units(rest.parts), all.slice(from), `from ${from}`);
      t.same(rest.terminal, END);
    }
  });

  t.test('a reader of whole appends gets each by itself, from every append on', async (t) => {
    const { store, create } = await setUp(t);
    const log = await create();
    const parts = [text('a'), text('bc'), toolCallHead('add'), toolArguments('{'), toolArguments('}'), text('d')];
    for (const part of [text(''), ...parts]) void log.append(part);
    const placed = [1, 3, 4, 5, 6, 7].map((position, index) => ({ part: parts[index], position, index }));
    for (let after = 0; after <= parts.length; after++) {
      const reader = await log.readAppends(after);
      const got: Slice['parts'][number][] = [];
      while (got.length < parts.length - after) got.push(...(await reader.next()).parts);
      t.same(got, placed.slice(after), `from ${after}`);
      reader.close();
    }
    await t.rejects(log.readAppends(parts.length + 1), PositionUnknown);
    log.end(END);
    const found = await store.open(log.info.id);
    const reader = await found?.readAppends(0);
    const first = (await reader?.next()) ?? { parts: [] };
    const last = first.terminal ? { ...first, parts: [] } : await reader?.next();
    t.same(first.parts, placed, 'after the end, by the id');
    t.same(last, { parts: [], terminal: END, answer: 'abcd' });
    t.same(await (await log.readAppends(parts.length)).next(), { parts: [], terminal: END, answer: 'abcd' });
    await t.rejects(log.readAppends(parts.length + 1), PositionUnknown);
  });

  t.test('an error keeps all its fields', async (t) => {
    const { store, create } = await setUp(t);
    const log = await create();
    const refused: Terminal = {
      type: 'error',
      code: 'upstream_rejected',
      message: 'The provider rejected the request.',
      status: 400,
      retryable: false,
      reason: 'context_length_exceeded',
      param: 'messages',
    };
    log.end(refused);
    t.same((await readAll(await log.read(0))).terminal, refused);
    const found = await store.open(log.info.id);
    t.same(found && (await readAll(await found.read(0))).terminal, refused, 'opened by its id');
  });

  t.test('a waiting reader is woken by an append and by the end', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    const reader = await log.read(0);
    const waiting = reader.next();
    void log.append(text('a'));
    t.same((await waiting).parts, [{ part: text('a'), position: 1 }]);
    void log.append(text('b'));
    void log.append(text('c'));
    await readTo(log, 3);
    t.same(await reader.next(), { parts: [{ part: text('bc'), position: 3 }] }, 'unread parts come in one slice');
    const last = reader.next();
    log.end(END);
    t.match(await last, { parts: [], terminal: END, answer: 'abc' });
    void log.append(text('late'));
    t.equal(log.length, 3, 'an append after the end is ignored');
  });

  t.test('flushMs: the first part is delivered immediately, later parts once per interval', async (t) => {
    const { create, clock } = await setUp(t, { flushMs: 10 });
    const log = await create();
    const reader = await log.read(0);
    const first = reader.next();
    void log.append(text('a'));
    t.same(partsOf(await first), [text('a')]);
    const second = reader.next();
    void log.append(text('b'));
    clock.advance(9);
    void log.append(text('c'));
    clock.advance(1);
    t.same(partsOf(await second), [text('bc')]);
    const third = reader.next();
    clock.advance(10);
    void log.append(text('d'));
    t.same(partsOf(await third), [text('d')], 'a part after a pause is delivered immediately');
    const last = reader.next();
    log.end(END);
    t.match(await last, { terminal: END }, 'the end does not wait for the interval');
    t.ok(clock.pending <= 1, 'only the expiry timer is pending');
  });

  t.test('the producer waits when it is highWaterMark ahead of the fastest reader', async (t) => {
    const { create } = await setUp(t, { highWaterMark: 10 });
    const log = await create();
    t.equal(log.append(text('x'.repeat(50))), undefined, 'an append without readers does not wait');
    const slow = await log.read(0);
    const fast = await log.read(50);
    t.equal(log.append(text('x'.repeat(10))), undefined, 'an append does not wait at the high-water mark');
    const drained = log.append(text('x'));
    t.ok(drained, 'an append waits above the high-water mark');
    let isDrained = false;
    void drained?.then(() => (isDrained = true));
    while (((await slow.next()).parts.at(-1)?.position ?? 0) < log.length);
    await tick();
    t.equal(isDrained, true, 'the producer continues when any reader catches up');

    const untilNoReaders = log.append(text('x'.repeat(11)));
    t.ok(untilNoReaders, 'an append waits again');
    slow.close();
    fast.close();
    await untilNoReaders;
    t.pass('the producer continues when the last reader closes');
    t.equal(log.append(text('x')), undefined, 'an append does not wait after the last reader has closed');
    const other = await log.read(0);
    const untilEnd = log.append(text('x'));
    t.ok(untilEnd, 'an append waits for a new reader at the start');
    log.end(END);
    await untilEnd;
    other.close();
  });

  t.test('a closed reader is no longer counted', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    const counts: number[] = [];
    log.subscribe({ onReaders: (count) => counts.push(count), onStop() {}, onTakenOver() {} });
    const first = await log.read(0);
    const second = await log.read(0);
    first.close();
    first.close();
    second.close();
    await until(() => counts.length >= 4, 'four reader counts are reported');
    t.same(counts, [1, 2, 1, 0]);
  });

  t.test('a read behind the end of the log is rejected with PositionUnknown', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    void log.append(text('abc'));
    await t.rejects(log.read(4), PositionUnknown);
    log.end(END);
    await t.rejects(log.read(4), PositionUnknown);
    t.match(await (await log.read(3)).next(), { parts: [], terminal: END });
  });

  t.test('a stop reaches the producer until the log has ended', async (t) => {
    const { store, create } = await setUp(t);
    const log = await create();
    let stops = 0;
    log.subscribe({ onReaders() {}, onStop: () => (stops += 1), onTakenOver() {} });
    await (await store.open(log.info.id))?.stop();
    await until(() => stops === 1, 'the stop has reached the producer');
    log.end(END);
    await log.stop();
    await tick();
    t.equal(stops, 1);
  });

  t.test('an ended stream stays readable for its time to live, a running one has no limit', async (t) => {
    const { store, create, clock, advance, age } = await setUp(t);
    const [first, second, running] = [await create(), await create(), await create()];
    await endLog(first);
    await advance(TTL_MS / 2);
    await endLog(second);
    await advance(TTL_MS / 2 - 1_000);
    t.ok(await store.open(first.info.id), 'readable one second before it expires');
    await advance(1_000);
    t.equal(await store.open(first.info.id), undefined, 'expired');
    t.ok(await store.open(second.info.id), 'a stream that ended later is still readable');
    await advance(TTL_MS);
    t.equal(await store.open(second.info.id), undefined, 'expired');
    t.ok(await store.open(running.info.id), 'a running stream does not expire');
    t.equal(await store.open(newId()), undefined);
    if (!age) t.equal(clock.pending, 0, 'no timer is pending');
  });

  t.test('concurrent creates with one idempotency key create one stream', async (t) => {
    const { store, advance } = await setUp(t);
    const idempotency = { key: 'k', fingerprint: 'f' };
    const results = await Promise.all(Array.from({ length: 20 }, () => store.create(info(), idempotency)));
    t.equal(results.filter(({ created }) => created).length, 1, 'one of twenty creates the log');
    const ids = new Set(results.map(({ log }) => log.info.id));
    t.equal(ids.size, 1, 'all get the same stream');
    t.ok(ids.has((await store.openByKey(idempotency))?.info.id as string));
    t.equal(await store.openByKey({ key: 'other', fingerprint: 'f' }), undefined);
    await t.rejects(store.create(info(), { key: 'k', fingerprint: 'g' }), KeyConflict);
    await t.rejects(store.openByKey({ key: 'k', fingerprint: 'g' }), KeyConflict);
    await endLog((results[0] as { log: WritableLog }).log);
    await advance(TTL_MS);
    t.equal(await store.openByKey(idempotency), undefined, 'a key expires with its stream');
    t.equal((await store.create(info(), { key: 'k', fingerprint: 'g' })).created, true);
  });

  t.test('a question that failed before its first part is asked once again under its key', async (t) => {
    const { store, advance } = await setUp(t);
    const idempotency = { key: 'k', fingerprint: 'f' };
    const first = (await store.create(info(), idempotency)).log as WritableLog;
    await endLog(first, FAILURE);
    t.equal(await store.openByKey(idempotency), undefined, 'the key stands for no stream');
    await t.rejects(store.create(info(), { key: 'k', fingerprint: 'g' }), KeyConflict, 'but for its question');
    await advance(TTL_MS / 2);
    const results = await Promise.all(Array.from({ length: 20 }, () => store.create(info(), idempotency)));
    t.equal(results.filter(({ created }) => created).length, 1, 'one of twenty creates a log');
    const ids = new Set(results.map(({ log }) => log.info.id));
    t.equal(ids.size, 1, 'all get the same stream');
    t.notOk(ids.has(first.info.id), 'another one than before');
    const again = await store.open(first.info.id);
    t.same((await readAll((await again?.read(0)) as LogReader)).terminal, FAILURE, 'the first stream is still stored');
    await advance(TTL_MS / 2);
    t.equal(await store.open(first.info.id), undefined, 'until it expires');
    t.ok(ids.has((await store.openByKey(idempotency))?.info.id as string), 'the key stands for the second stream then');
    const second = results.find(({ created }) => created)?.log as WritableLog;
    void second.append(text('x'));
    await endLog(second, FAILURE);
    t.equal((await store.openByKey(idempotency))?.info.id, second.info.id, 'a failure after a part keeps the key');
    t.equal((await store.create(info(), idempotency)).created, false);
  });

  t.test('openByChat finds the newest stream of a conversation while it runs', async (t) => {
    const { store } = await setUp(t);
    const createInChat = () => createLog(store, { ...info(), chat: 'c' });
    t.equal(await store.openByChat('c'), undefined);
    const first = await createInChat();
    t.equal((await store.openByChat('c'))?.info.id, first.info.id);
    const second = await createInChat();
    await endLog(first);
    t.equal((await store.openByChat('c'))?.info.id, second.info.id, 'the newest stream');
    await endLog(second);
    t.equal(await store.openByChat('c'), undefined, 'no stream after its end');
    t.equal(await store.openByChat('d'), undefined);
  });

  t.test('above maxTotalBytes the store evicts the oldest ended logs, then refuses new ones', async (t) => {
    const {
      store,
      create,
      evicted,
      keepsEvictedLogs = false,
    } = await setUp(t, {
      maxTotalBytes: 100_000,
      highWaterMark: 1e6,
    });
    const createFilled = async () => {
      const log = await create();
      void log.append(text('x'.repeat(10_000)));
      await readTo(log, 10_000);
      return log;
    };
    const logs: WritableLog[] = [];
    for (let i = 0; i < 4; i++) logs.push(await createFilled());
    const log = (i: number) => logs[i] as WritableLog;
    const isReadable = async (i: number) => (await store.open(log(i).info.id)) !== undefined;
    await endLog(log(1));
    await endLog(log(0));
    await createFilled();
    t.same(
      [await isReadable(0), await isReadable(1), await isReadable(2), await isReadable(3)],
      [true, keepsEvictedLogs, true, true],
      'the log that ended first is evicted',
    );
    t.equal(evicted(), 1, 'one eviction is reported');
    await createFilled();
    t.equal(await isReadable(0), keepsEvictedLogs, 'the next ended log is evicted');
    t.equal(evicted(), 2, 'two evictions are reported');
    await createFilled();
    await t.rejects(create(), StoreFull, 'running logs are never evicted');
    await endLog(log(2));
    await create();
    t.pass('an ended log makes room for a new one');
  });
}

interface Read {
  parts: ContentPart[];
  terminal: Terminal | undefined;
  answer: string | undefined;
}

const partsOf = ({ parts }: Slice) => parts.map(({ part }) => part);

async function readAll(reader: LogReader): Promise<Read> {
  const parts: ContentPart[] = [];
  for (;;) {
    const slice = await reader.next();
    parts.push(...partsOf(slice));
    if (slice.terminal) {
      reader.close();
      return { parts, terminal: slice.terminal, answer: slice.answer };
    }
  }
}

/** Joins parts, one character for each unit: content as it is, `#` for the id and name of a tool call. */
function units(parts: readonly ContentPart[]): string {
  return parts
    .map((part) => (part.type === 'tool_call' ? `${part.name === undefined ? '' : '#'}${part.arguments}` : part.text))
    .join('');
}

/** Waits until readers see a running log up to `position`. */
async function readTo(log: WritableLog, position: number): Promise<void> {
  const reader = await log.read(0);
  let end = 0;
  while (end < position) end = (await reader.next()).parts.at(-1)?.position ?? end;
  reader.close();
}

/** Ends a log and waits until readers see the end. */
async function endLog(log: WritableLog, terminal = END): Promise<void> {
  log.end(terminal);
  await readAll(await log.read(log.length));
}

const tick = () => new Promise((resolve) => setImmediate(resolve));
