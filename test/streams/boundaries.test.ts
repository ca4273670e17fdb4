import fc from 'fast-check';
import t from 'tap';
import { Boundaries } from '../../plugins/streams/memory/boundaries.ts';
import { LogContent } from '../../plugins/streams/memory/content.ts';
import { decodeEntry, encodeParts } from '../../plugins/streams/redis/entries.ts';
import { Batch } from '../../plugins/streams/redis/producer/batch.ts';
import type { PlacedAppend, Terminal, WritableLog } from '../../plugins/streams/types.ts';
import { appendSizes, MAX_APPEND_UNITS, partSize, unitsOf } from '../../plugins/streams/units.ts';
import type { ContentPart } from '../../providers/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, merged, newId, text } from './conformance.ts';
import { createReplicas, type TestReplica, type TestReplicas } from './replica-pair.ts';

/**
 * The boundaries of appends: the same on every replica, however entries are flushed, written again, copied and taken
 * over. `RUNS` is the number of random sequences.
 */

const RUNS = Number(process.env.RUNS ?? 40);
const END: Terminal = { type: 'end', finishReason: 'stop' };

const content = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom('a', ' word', '你好', '🚀', '\ud83d', 'x\ud83d', '\ude80', '\ude80x', '') },
  { weight: 1, arbitrary: fc.integer({ min: 90, max: 9_000 }).map((length) => '🚀'.padStart(length, 'ab🚀')) },
);
const part: fc.Arbitrary<ContentPart> = fc.oneof(
  { weight: 4, arbitrary: content.map((text) => ({ type: 'text' as const, text })) },
  { weight: 2, arbitrary: content.map((text) => ({ type: 'reasoning' as const, text })) },
  fc.record({ type: fc.constant('tool_call' as const), index: fc.nat(1), arguments: content }),
  fc.record({
    type: fc.constant('tool_call' as const),
    index: fc.nat(1),
    id: fc.constant('i'),
    name: fc.constant('f'),
    arguments: content,
  }),
);

/** Returns the appends that these parts count as. */
function appendsOf(parts: readonly ContentPart[]): ContentPart[] {
  return parts.flatMap((one) => {
    if (partSize(one) === 0) return [];
    let end = 0;
    return (appendSizes(one) ?? [partSize(one)]).map((size) => {
      end += size;
      return unitsOf(one, end - size, end);
    });
  });
}

function same(actual: unknown, expected: unknown, what: string): void {
  const [got, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (got !== wanted) throw new Error(`${what}: ${got?.slice(0, 1_000)}, expected ${wanted?.slice(0, 1_000)}`);
}

t.test('a boundary takes at most eight bytes while a log grows, and four when it is sealed', (t) => {
  const boundaries = new Boundaries();
  let most = 0;
  for (let count = 1; count <= 100_000; count++) {
    boundaries.push(count * 3);
    most = Math.max(most, boundaries.bytes / count);
  }
  t.ok(most <= 8, `${most} bytes for each append`);
  boundaries.seal();
  t.equal(boundaries.bytes / boundaries.count, 4);
  t.same(
    [0, 1, 2, 99_999, 100_000].map((count) => boundaries.endOf(count)),
    [0, 3, 6, 299_997, 300_000],
  );
  t.same(
    [0, 2, 3, 4, 299_999, 300_000, 1e9].map((at) => boundaries.countUpTo(at)),
    [0, 0, 1, 1, 99_999, 100_000, 100_000],
  );
  t.end();
});

t.test('a part of more than the most units counts as several appends, and no surrogate pair is cut', (t) => {
  const long = text(`${'x'.repeat(MAX_APPEND_UNITS - 1)}🚀${'y'.repeat(MAX_APPEND_UNITS)}`);
  t.same(appendSizes(long), [MAX_APPEND_UNITS + 1, MAX_APPEND_UNITS]);
  t.equal(appendSizes(text('x'.repeat(MAX_APPEND_UNITS))), undefined);
  for (const one of appendsOf([long])) t.equal(appendSizes(one), undefined, 'a piece is one append by itself');
  t.end();
});

const limits = fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 5_000 }));

t.test('every append can be read by itself, from every append on, while a log grows and when it is sealed', (t) => {
  fc.assert(
    fc.property(fc.array(part, { maxLength: 90 }), limits, (parts, limit) => {
      const log = new LogContent();
      const check = (appends: readonly ContentPart[]) => {
        same(log.appends, appends.length, 'number of appends');
        for (let from = 0; from <= appends.length; from++) {
          const got = log.sliceAppends(from, limit);
          same(
            got.map(({ part }) => part),
            appends.slice(from, from + got.length),
            `appends from ${from}`,
          );
          same(
            got.map(({ index }) => index),
            got.map((_, i) => from + i),
            'indexes',
          );
          same(
            got.map(({ position }) => position),
            got.map((_, i) => log.endOf(from + i + 1)),
            'positions',
          );
          const units = got.reduce((sum, { part }) => sum + partSize(part), 0);
          same(got.length > 0, from < appends.length, `an append from ${from}`);
          if (got.length > 1 && units > limit) throw new Error(`${units} units in one slice of ${limit}`);
          const next = appends[from + got.length];
          if (next && units + partSize(next) <= limit) throw new Error('a slice leaves out what would fit');
        }
      };
      for (const [i, one] of parts.entries()) {
        if (partSize(one) > 0) log.append(one, partSize(one), appendSizes(one));
        if (i % 30 === 0) check(appendsOf(parts.slice(0, i + 1)));
      }
      check(appendsOf(parts));
      log.seal();
      check(appendsOf(parts));
    }),
    { numRuns: 5 * RUNS },
  );
  t.pass(`${5 * RUNS} random logs`);
  t.end();
});

t.test('an entry keeps the boundaries of a batch, in at most eight bytes for each', { skip: noRedis }, async (t) => {
  fc.assert(
    fc.property(fc.array(part, { maxLength: 40 }), (parts) => {
      const batch = new Batch();
      for (const one of parts) batch.add(one);
      const decoded = decodeEntry(['1-0', encodeParts(batch.parts)]).parts;
      const log = new LogContent();
      for (const { part, sizes } of decoded) log.append(part, partSize(part), sizes);
      same(
        log.sliceAppends(0, 1e9).map(({ part }) => part),
        appendsOf(parts),
        'appends of an entry',
      );
    }),
    { numRuns: RUNS },
  );
  const { url } = await startRedis(t);
  const { redis } = await createReplicas(t, url);
  for (const [size, count] of [
    [1, 2],
    [4, 2],
    [4, 10],
    [5, 200],
    [200, 2],
    [4_000, 2],
  ] as const) {
    const bytes: number[] = [];
    for (const withSizes of [false, true]) {
      const name = `${size} ${count} ${withSizes}`;
      for (let entry = 1; entry <= 500; entry++) {
        const batch = new Batch();
        for (let i = 0; i < count; i++) batch.add(text('x'.repeat(size)));
        const parts = withSizes ? batch.parts : batch.parts.map(({ part }) => ({ part }));
        await redis.xadd(name, `1-${entry * size * count}`, ...encodeParts(parts));
      }
      // `XADD` leaves room to grow in the last node, so a copy is measured.
      await redis.restore(`${name} copy`, 0, (await redis.dumpBuffer(name)) as Buffer);
      bytes.push(Number(await redis.memory('USAGE', `${name} copy`, 'SAMPLES', 0)));
    }
    const each = ((bytes[1] as number) - (bytes[0] as number)) / (500 * count);
    t.ok(each <= 8, `${count} appends of ${size} units in an entry: ${each.toFixed(1)} bytes for each append in Redis`);
  }
});

t.test('entries of a version without boundaries, and entries with wrong sizes, have an append for each part', (t) => {
  const long = 'x'.repeat(MAX_APPEND_UNITS + 1);
  t.same(decodeEntry(['1-5', ['t', 'ab', 'r', 'cde']]).parts, merged(text('ab'), { type: 'reasoning', text: 'cde' }));
  t.same(decodeEntry(['1-9', ['t', long]]).parts, [{ part: text(long), sizes: [MAX_APPEND_UNITS, 1] }]);
  for (const sizes of ['', '\0', '\x01\x01', '\x02', 'x', '\ufffd']) {
    t.same(decodeEntry(['1-2', ['t', 'ab', 's', sizes]]).parts, merged(text('ab')), `sizes ${JSON.stringify(sizes)}`);
  }
  t.same(decodeEntry(['1-2', ['t', 'ab', 's', '\x01']]).parts, [{ part: text('ab'), sizes: [1, 1] }]);
  t.end();
});

t.test('a copy waits for appends that it does not have yet', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const replicas = await createReplicas(t, url);
  const [a, b] = [await replicas.add({ flushMs: 10 }), await replicas.add({ flushMs: 10 })];
  const id = newId();
  const log = await createLog(a.store, { id, model: 'm', graceMs: 1_000, owner: 'o' });
  const copy = await b.store.open(id);
  const early = copy?.readAppends(2);
  const never = copy?.readAppends(4).then(undefined, (error: unknown) => error);
  await replicas.settle();
  for (const word of ['one ', 'two ', 'three ']) void log.append(text(word));
  await replicas.advance(2_500, 50);
  t.same((await (await early)?.next())?.parts, [{ part: text('three '), position: 14, index: 2 }]);
  t.match(await never, { name: 'PositionUnknown' });
});

/** Everything that readers of whole appends have received, by the index of the append. */
class Seen {
  readonly #appends = new Map<number, PlacedAppend>();
  readonly readers: { next: number; hasEnded: boolean }[] = [];
  error: unknown;

  async add(replica: TestReplica, id: string, after: number): Promise<void> {
    const log = await replica.store.open(id).catch(() => undefined);
    const reader = await log?.readAppends(after).catch(() => undefined);
    if (reader === undefined) return;
    const state = { next: after, hasEnded: false };
    this.readers.push(state);
    void (async () => {
      for (;;) {
        const { parts, terminal } = await reader.next();
        for (const append of parts) {
          same(append.index, state.next, 'index of the next append');
          same(append, this.#appends.get(append.index) ?? append, `append ${append.index} in another replay`);
          this.#appends.set(append.index, append);
          state.next += 1;
        }
        if (terminal === undefined) continue;
        state.hasEnded = true;
        reader.close();
        return;
      }
    })().catch((error: unknown) => {
      this.error = error;
    });
  }

  get appends(): ContentPart[] {
    return [...this.#appends].sort(([a], [b]) => a - b).map(([, { part }]) => part);
  }
}

interface Real {
  readonly replicas: TestReplicas;
  readonly all: TestReplica[];
  readonly seen: Seen;
  readonly id: string;
  /** The log of the replica that produces it now. */
  log: WritableLog;
  producer: number;
  /** Everything that was appended, apart from what was lost with its producer. */
  parts: ContentPart[];
}

type Step = (real: Real) => void | Promise<void>;

const appendParts =
  (parts: readonly ContentPart[]): Step =>
  async (real) => {
    for (const one of parts) {
      real.parts.push(one);
      void real.log.append(one);
    }
  };
const settle: Step = ({ replicas }) => replicas.settle();
const flush: Step = ({ replicas }) => replicas.advance(10);
const read =
  (at: number, share: number): Step =>
  async ({ all, id, seen }) =>
    seen.add(all[at % all.length] as TestReplica, id, Math.floor(share * seen.appends.length));
/** Redis refuses the writes of the producer for a while, and comes back as it was, without the stream, or with older data. */
const outage =
  (kind: 'unchanged' | 'empty' | 'older', before: readonly ContentPart[], meanwhile: readonly ContentPart[]): Step =>
  async (real) => {
    const { replicas, id } = real;
    const { redis, streamKey } = replicas;
    const producer = real.all[real.producer] as TestReplica;
    await replicas.advance(20);
    if (kind === 'older') await redis.copy(streamKey('log', id), streamKey('older', id), 'REPLACE');
    for (const one of before) {
      await appendParts([one])(real);
      await replicas.advance(20);
    }
    producer.isConnected = false;
    await appendParts(meanwhile)(real);
    await replicas.advance(20);
    if (kind === 'empty') await redis.del(streamKey('meta', id), streamKey('log', id));
    if (kind === 'older') await redis.rename(streamKey('older', id), streamKey('log', id));
    producer.reconnect();
    await replicas.advance(2_000);
  };
/** Adds a replica that may take the log over. */
async function addReplica(real: Real): Promise<TestReplica> {
  const replica = await real.replicas.add({ flushMs: 10 });
  const index = real.all.push(replica) - 1;
  replica.store.onTakeover((log) => {
    log.subscribe({ onReaders() {}, onStop() {}, onTakenOver() {} });
    real.log = log;
    real.producer = index;
  });
  return replica;
}
/** The producer dies when Redis has everything. A replica with readers takes the log over. */
const takeOver: Step = async (real) => {
  const { replicas, all, id, seen, producer } = real;
  await seen.add(await addReplica(real), id, 0);
  await replicas.advance(2_000);
  await (all[producer] as TestReplica).die();
  await replicas.advance(6_000);
  same(real.producer === producer, false, 'the dead replica produces the log');
};

const named = (name: string, step: Step) => Object.assign(step, { toString: () => name });
const parts = fc.array(part, { minLength: 1, maxLength: 12 });
const steps = fc.oneof(
  {
    weight: 6,
    arbitrary: parts.map((some) => named(`append ${JSON.stringify(some).slice(0, 300)}`, appendParts(some))),
  },
  { weight: 2, arbitrary: fc.constantFrom(named('settle', settle), named('flush', flush)) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(fc.nat(3), fc.double({ min: 0, max: 1, noNaN: true }))
      .map(([at, share]) => named(`read(${at}, ${share})`, read(at, share))),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.constantFrom('unchanged' as const, 'empty' as const, 'older' as const), parts, parts)
      .map(([kind, before, meanwhile]) => named(`outage(${kind})`, outage(kind, before, meanwhile))),
  },
  { weight: 1, arbitrary: fc.constant(named('takeOver', takeOver)) },
);

t.test(
  'all replicas have the same appends after flushes, outages, takeovers and an emptied Redis',
  { skip: noRedis },
  async (t) => {
    const { url } = await startRedis(t);
    const run = fc.asyncProperty(fc.array(steps, { maxLength: 14, size: 'max' }), async (sequence) => {
      const replicas = await createReplicas(t, url);
      const first = await replicas.add({ flushMs: 10 });
      const id = newId();
      const log = await createLog(first.store, { id, model: 'm', graceMs: 600_000, owner: 'o' });
      log.subscribe({ onReaders() {}, onStop() {}, onTakenOver() {} });
      const seen = new Seen();
      const all = [first];
      const real: Real = { replicas, all, seen, id, log, producer: 0, parts: [] };
      await addReplica(real);
      await seen.add(all[1] as TestReplica, id, 0);
      for (const step of sequence) await step(real);
      await replicas.advance(100);
      const expected = appendsOf(real.parts);
      real.log.end(END);
      await replicas.advance(4_000);
      // A replica that starts now knows the log from Redis alone.
      all.push(await replicas.add());
      for (const replica of all) {
        if (replica.isConnected)
          for (const share of [0, 0.5, 1]) await seen.add(replica, id, Math.floor(share * expected.length));
      }
      await replicas.advance(4_000);
      if (seen.error) throw seen.error;
      same(seen.appends, expected, 'appends');
      for (const reader of seen.readers) {
        if (reader.hasEnded) same(reader.next, expected.length, 'appends of a reader that has the end');
      }
      await Promise.all(all.map(({ store }) => store.close()));
      replicas.redis.disconnect();
    });
    await fc.assert(run, { numRuns: RUNS });
    t.pass(`${RUNS} random sequences`);
  },
);
