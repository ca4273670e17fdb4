import { randomBytes } from 'node:crypto';
import type { Test } from 'tap';
import type { LogReader, Slice, StreamInfo, StreamStore, Terminal, WritableLog } from '../../plugins/streams/types.ts';
import { KeyConflict, PositionUnknown, StoreFull } from '../../plugins/streams/types.ts';
import type { ContentPart } from '../../providers/types.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';

/** What every store must do. A store that passes can stand behind the service. */

export interface StoreSettings {
  readonly clock: ManualClock;
  readonly highWaterMark: number;
  readonly flushMs: number;
  readonly ttlMs: number;
  readonly maxTotalBytes: number;
  onEvicted(): void;
}

/** A store to be tried. */
export interface Candidate {
  readonly store: StreamStore;
  /** Makes what is kept outside of this process older, as the clock does for what is in it. */
  age?(ms: number): Promise<void>;
  /** It keeps within `maxTotalBytes` by itself. */
  readonly isBounded?: boolean;
}

export const TTL_MS = 300_000;
const END: Terminal = { type: 'end', finishReason: 'stop' };

export const text = (content: string): ContentPart => ({ type: 'text', text: content });
const reasoning = (content: string): ContentPart => ({ type: 'reasoning', text: content });
const tool = (args: string, index = 0): ContentPart => ({ type: 'tool_call', index, arguments: args });
const call = (name: string): ContentPart => ({ type: 'tool_call', index: 0, id: 'i', name, arguments: '' });

export const newId = () => randomBytes(16).toString('base64url');
/** Creates a log, which must be new. */
export async function createLog(store: StreamStore, info: StreamInfo): Promise<WritableLog> {
  const { log, created } = await store.create(info);
  if (!created) throw new Error('the store found a log instead of creating one');
  return log;
}

const info = (graceMs = 15_000) => ({ id: newId(), model: 'm', graceMs, owner: 'o' });

export function storeConformance(t: Test, createStore: (t: Test, settings: StoreSettings) => Promise<Candidate>): void {
  const setUp = async (t: Test, settings: Partial<StoreSettings> = {}) => {
    const clock = manualClock();
    let evicted = 0;
    const onEvicted = () => {
      evicted += 1;
    };
    const candidate = await createStore(t, {
      clock,
      highWaterMark: 100,
      flushMs: 0,
      ttlMs: TTL_MS,
      maxTotalBytes: 1e8,
      onEvicted,
      ...settings,
    });
    const { store } = candidate;
    t.teardown(() => store.close());
    const create = () => createLog(store, info());
    const advance = async (ms: number) => {
      await settled();
      await candidate.age?.(ms);
      clock.advance(ms);
    };
    return { ...candidate, clock, advance, create, evicted: () => evicted };
  };

  t.test('reads from every position what was written, merged', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    const parts = [
      reasoning('thin'),
      reasoning('king'),
      text('你'),
      text('好 🚀'),
      call('add'),
      tool('{"a"'),
      tool(':1}'),
      tool('{}', 1),
      text('end'),
    ];
    for (const part of parts) void log.append(part);
    const all = 'thinking你好 🚀#{"a":1}{}end';
    for (let from = 0; from < log.length; from++) {
      const reader = await log.read(from);
      let got = '';
      while (got.length < all.length - from) got += units(partsOf(await reader.next()));
      t.equal(got, all.slice(from), `from ${from}, while it runs`);
      reader.close();
    }
    log.end(END);
    const whole = await readAll(await log.read(0));
    t.same(whole.parts, [
      reasoning('thinking'),
      text('你好 🚀'),
      { ...call('add'), arguments: '{"a":1}' },
      tool('{}', 1),
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

  t.test('a live reader waits, and is woken', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    const reader = await log.read(0);
    const waiting = reader.next();
    void log.append(text('a'));
    t.same((await waiting).parts, [{ part: text('a'), position: 1 }]);
    void log.append(text('b'));
    void log.append(text('c'));
    await settled();
    t.same(await reader.next(), { parts: [{ part: text('bc'), position: 3 }] }, 'what piled up comes as one');
    const last = reader.next();
    log.end(END);
    t.match(await last, { parts: [], terminal: END, answer: 'abc' });
    void log.append(text('late'));
    t.equal(log.length, 3, 'nothing follows the end');
  });

  t.test('flushMs: the first at once, what follows inside of it together', async (t) => {
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
    t.same(partsOf(await third), [text('d')], 'at once after a pause');
    const last = reader.next();
    log.end(END);
    t.match(await last, { terminal: END }, 'the end waits for nothing');
    t.ok(clock.pending <= 1, 'no timer is left but that of the expiry');
  });

  t.test('the producer keeps the pace of the fastest reader', async (t) => {
    const { create } = await setUp(t, { highWaterMark: 10 });
    const log = await create();
    t.equal(log.append(text('x'.repeat(50))), undefined, 'with nobody attached it does not wait');
    const slow = await log.read(0);
    const fast = await log.read(50);
    t.equal(log.append(text('x'.repeat(10))), undefined, 'ten ahead of the fastest');
    const room = log.append(text('x'));
    t.ok(room, 'eleven ahead');
    let resumed = false;
    void room?.then(() => (resumed = true));
    while (((await slow.next()).parts.at(-1)?.position ?? 0) < log.length);
    await tick();
    t.equal(resumed, true, 'any reader that catches up lets it go on');

    const again = log.append(text('x'.repeat(11)));
    t.ok(again);
    slow.close();
    fast.close();
    await again;
    t.pass('and so does the last one that leaves');
    const blocked = log.append(text('x'));
    t.equal(blocked, undefined);
    const other = await log.read(0);
    const held = log.append(text('x'));
    t.ok(held);
    log.end(END);
    await held;
    other.close();
  });

  t.test('a closed reader is let go', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    const counts: number[] = [];
    log.subscribe({ onReaders: (count) => counts.push(count), onStop() {}, onTakenOver() {} });
    const one = await log.read(0);
    const two = await log.read(0);
    one.close();
    one.close();
    two.close();
    await until(() => counts.length >= 4);
    t.same(counts, [1, 2, 1, 0]);
  });

  t.test('a position past the end does not exist', async (t) => {
    const { create } = await setUp(t);
    const log = await create();
    void log.append(text('abc'));
    await t.rejects(log.read(4), PositionUnknown);
    log.end(END);
    await t.rejects(log.read(4), PositionUnknown);
    t.match(await (await log.read(3)).next(), { parts: [], terminal: END });
  });

  t.test('a stop reaches the producer, and only while it produces', async (t) => {
    const { store, create } = await setUp(t);
    const log = await create();
    let stops = 0;
    log.subscribe({ onReaders() {}, onStop: () => (stops += 1), onTakenOver() {} });
    await (await store.open(log.info.id))?.stop();
    await until(() => stops === 1);
    log.end(END);
    await log.stop();
    await tick();
    t.equal(stops, 1);
  });

  t.test('ended streams stay for the time to live', async (t) => {
    const { store, create, clock, advance, age } = await setUp(t);
    const [first, second, running] = [await create(), await create(), await create()];
    first.end(END);
    await advance(TTL_MS / 2);
    second.end(END);
    await advance(TTL_MS / 2 - 1_000);
    t.ok(await store.open(first.info.id));
    await advance(1_000);
    t.equal(await store.open(first.info.id), undefined, 'gone');
    t.ok(await store.open(second.info.id), 'ended later');
    await advance(TTL_MS);
    t.equal(await store.open(second.info.id), undefined);
    t.ok(await store.open(running.info.id), 'a running one does not expire');
    t.equal(await store.open(newId()), undefined);
    if (!age) t.equal(clock.pending, 0, 'no timer is left');
  });

  t.test('one key is one stream', async (t) => {
    const { store, advance } = await setUp(t);
    const idempotency = { key: 'k', fingerprint: 'f' };
    const made = await Promise.all(Array.from({ length: 20 }, () => store.create(info(), idempotency)));
    t.equal(made.filter(({ created }) => created).length, 1, 'of twenty that race one creates');
    const ids = new Set(made.map(({ log }) => log.info.id));
    t.equal(ids.size, 1);
    t.ok(ids.has((await store.openByKey(idempotency))?.info.id as string));
    t.equal(await store.openByKey({ key: 'other', fingerprint: 'f' }), undefined);
    await t.rejects(store.create(info(), { key: 'k', fingerprint: 'g' }), KeyConflict);
    await t.rejects(store.openByKey({ key: 'k', fingerprint: 'g' }), KeyConflict);
    (made[0] as { log: WritableLog }).log.end(END);
    await advance(TTL_MS);
    t.equal(await store.openByKey(idempotency), undefined, 'a key goes with its stream');
    t.equal((await store.create(info(), { key: 'k', fingerprint: 'g' })).created, true);
  });

  t.test('a conversation is found by its newest stream, while that runs', async (t) => {
    const { store } = await setUp(t);
    const made = () => createLog(store, { ...info(), chat: 'c' });
    t.equal(await store.openByChat('c'), undefined);
    const first = await made();
    t.equal((await store.openByChat('c'))?.info.id, first.info.id);
    const second = await made();
    first.end(END);
    await settled();
    t.equal((await store.openByChat('c'))?.info.id, second.info.id, 'the newest');
    second.end(END);
    await settled();
    t.equal(await store.openByChat('c'), undefined, 'and none that has ended');
    t.equal(await store.openByChat('d'), undefined);
  });

  t.test('memory has a bound: the oldest ended go first, then new ones are refused', async (t) => {
    const { store, create, evicted, isBounded } = await setUp(t, { maxTotalBytes: 100_000 });
    if (!isBounded) {
      t.pass('bounded elsewhere');
      return;
    }
    const filled = async () => {
      const log = await create();
      void log.append(text('x'.repeat(10_000)));
      return log;
    };
    const logs: WritableLog[] = [];
    for (let i = 0; i < 4; i++) logs.push(await filled());
    logs[1]?.end(END);
    logs[0]?.end(END);
    await filled();
    const kept = async (i: number) => (await store.open((logs[i] as WritableLog).info.id)) !== undefined;
    t.same(
      [await kept(0), await kept(1), await kept(2), await kept(3)],
      [true, false, true, true],
      'the first that ended',
    );
    await filled();
    t.equal(await kept(0), false, 'then the next');
    t.equal(evicted(), 2);
    await filled();
    await t.rejects(create(), StoreFull, 'running ones are never evicted');
    logs[2]?.end(END);
    await create();
    t.pass('an ended one makes room');
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

/** One character a unit: content as it is, `#` for the head of a tool call. */
function units(parts: readonly ContentPart[]): string {
  return parts
    .map((part) => (part.type === 'tool_call' ? `${part.name === undefined ? '' : '#'}${part.arguments}` : part.text))
    .join('');
}

/** Time for what was written to arrive, wherever it goes. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 20));

const tick = () => new Promise((resolve) => setImmediate(resolve));

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 5_000 && !condition(); i++) await tick();
}
