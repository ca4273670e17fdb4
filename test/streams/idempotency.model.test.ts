import fc from 'fast-check';
import t from 'tap';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import {
  ABANDONED,
  LIMIT_EXCEEDED,
  PRODUCER_LOST,
  REVOKED,
  SHUT_DOWN,
  STOPPED,
} from '../../plugins/streams/terminals.ts';
import {
  KeyConflict,
  type StreamInfo,
  type StreamStore,
  type Terminal,
  type WritableLog,
} from '../../plugins/streams/types.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { noRedis, startRedis } from '../redis.ts';
import { newId, text } from './conformance.ts';
import { createReplicas, follow, type TestReplica } from './replica-pair.ts';

/**
 * An idempotency key stands for one generation at a time: another one starts under it only when the last one has failed
 * for a reason that passes, before its first part. `RUNS` is the number of random sequences for each store.
 */

const failure = (code: string, retryable: boolean): Terminal => ({
  type: 'error',
  code,
  message: 'm',
  status: 502,
  retryable,
});
const COMPLETE: Terminal = { type: 'end', finishReason: 'stop' };
/** Terminals, and whether a question without an answer may be asked again after each. */
const TERMINALS: readonly (readonly [terminal: Terminal, isRepeatable: boolean])[] = [
  [COMPLETE, false],
  [STOPPED, false],
  [failure('upstream_unreachable', true), true],
  [failure('upstream_rate_limited', true), true],
  [failure('upstream_failed', true), true],
  [failure('overloaded', true), true],
  [failure('upstream_rejected', false), false],
  [failure('internal', false), false],
  [ABANDONED, true],
  [PRODUCER_LOST, true],
  [SHUT_DOWN, true],
  [LIMIT_EXCEEDED, false],
  [REVOKED, false],
];

const KEY = { key: 'k', fingerprint: 'f' };
const info = (): StreamInfo => ({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o' });

/** One or more replicas of a store. */
interface Stores {
  readonly replicas: readonly StreamStore[];
  /** Waits until what was written is visible everywhere. */
  settle(): Promise<void>;
  close(): Promise<void>;
}

/** The stream of the key, as the model knows it. */
interface Current {
  readonly log: WritableLog;
  length: number;
  terminal: Terminal | undefined;
  isRepeatable: boolean;
}

interface Real {
  readonly stores: Stores;
  current: Current | undefined;
  /** Streams that have lost the key. */
  readonly old: Current[];
}

interface Step {
  run(real: Real): Promise<void>;
  toString(): string;
}

function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected) throw new Error(`${what}: ${String(actual)} in place of ${String(expected)}`);
}

/** Asks the question from several callers at once, each at the replica with its number. */
const ask = (at: readonly number[]): Step => ({
  toString: () => `ask(${at})`,
  async run(real) {
    await real.stores.settle();
    const { replicas } = real.stores;
    const results = await Promise.all(
      at.map((i) => (replicas[i % replicas.length] as StreamStore).create(info(), KEY)),
    );
    const { current, old } = real;
    const isNew = current === undefined || current.isRepeatable;
    const created = results.filter((result) => result.created);
    same(created.length, isNew ? 1 : 0, 'streams that were created');
    const ids = new Set(results.map(({ log }) => log.info.id));
    same(ids.size, 1, 'different streams');
    if (!isNew) return same([...ids][0], current.log.info.id, 'the stream');
    if (current) old.push(current);
    real.current = { log: created[0]?.log as WritableLog, length: 0, terminal: undefined, isRepeatable: false };
  },
});

const append: Step = {
  toString: () => 'append()',
  async run({ current }) {
    if (current === undefined || current.terminal) return;
    current.length += 1;
    void current.log.append(text('x'));
  },
};

const end = (index: number): Step => ({
  toString: () => `end(${index})`,
  async run({ current }) {
    const [terminal, isRepeatable] = TERMINALS[index] as (typeof TERMINALS)[number];
    if (current === undefined || current.terminal) return;
    current.terminal = terminal;
    current.isRepeatable = isRepeatable && current.length === 0;
    current.log.end(terminal);
  },
});

/** Asks while the answer ends: the callers get the old stream or one new one, whichever the end allows. */
const race = (index: number, at: readonly number[]): Step => ({
  toString: () => `race(${index}, ${at})`,
  async run(real) {
    await real.stores.settle();
    const { current, stores } = real;
    if (current === undefined || current.terminal) return;
    const { replicas } = stores;
    const asking = at.map((i) => (replicas[i % replicas.length] as StreamStore).create(info(), KEY));
    await end(index).run(real);
    const results = await Promise.all(asking);
    const created = results.filter((result) => result.created);
    if (created.length > (current.isRepeatable ? 1 : 0)) throw new Error(`${created.length} streams were created`);
    const allowed = [current.log.info.id, created[0]?.log.info.id];
    for (const { log } of results) if (!allowed.includes(log.info.id)) throw new Error('a third stream');
    if (created[0] === undefined) return;
    real.old.push(current);
    real.current = { log: created[0].log as WritableLog, length: 0, terminal: undefined, isRepeatable: false };
  },
});

const find: Step = {
  toString: () => 'find()',
  async run({ stores, current }) {
    await stores.settle();
    const expected = current?.isRepeatable ? undefined : current?.log.info.id;
    for (const store of stores.replicas) {
      same((await store.openByKey(KEY))?.info.id, expected, 'the stream of the key');
    }
  },
};

/** Another question under the key is refused as long as the key stands for a stream, failed or not. */
const askAnother: Step = {
  toString: () => 'askAnother()',
  async run({ stores, current }) {
    if (current === undefined) return;
    await stores.settle();
    for (const store of stores.replicas) {
      const error = await store.create(info(), { ...KEY, fingerprint: 'g' }).catch((reason: unknown) => reason);
      same(error instanceof KeyConflict, true, 'the conflict of another question');
    }
  },
};

const callers = fc.array(fc.nat({ max: 1 }), { minLength: 1, maxLength: 4 });
const terminal = fc.nat({ max: TERMINALS.length - 1 });
const steps: fc.Arbitrary<Step>[] = [
  callers.map(ask),
  callers.map(ask),
  fc.constant(append),
  terminal.map(end),
  terminal.map(end),
  fc.tuple(terminal, callers).map(([index, at]) => race(index, at)),
  fc.constant(find),
  fc.constant(askAnother),
];

/** Streams that have lost the key are read to their own ends at every replica. */
async function check({ stores, old, current }: Real): Promise<void> {
  await stores.settle();
  for (const { log, length, terminal: expected } of [...old, ...(current?.terminal ? [current] : [])]) {
    for (const store of stores.replicas) {
      const reader = await follow(await store.open(log.info.id));
      await until(() => reader.last !== undefined, 'the stored stream is read');
      same(reader.text.length, length, 'units of a stored stream');
      same(JSON.stringify(reader.last?.terminal), JSON.stringify(expected), 'the end of a stored stream');
    }
  }
}

async function checkSequences(createStores: () => Promise<Stores>): Promise<void> {
  const run = fc.asyncProperty(fc.array(fc.oneof(...steps), { maxLength: 25, size: 'max' }), async (sequence) => {
    const stores = await createStores();
    const real: Real = { stores, current: undefined, old: [] };
    for (const step of sequence) await step.run(real);
    await check(real);
    real.current?.log.end(COMPLETE);
    await stores.settle();
    await stores.close();
  });
  await fc.assert(run, { numRuns: Number(process.env.RUNS ?? 60) });
}

t.test('a key in the memory store', async (t) => {
  await checkSequences(async () => {
    const store = new MemoryStore({
      clock: manualClock(),
      highWaterMark: 16_384,
      flushMs: 0,
      ttlMs: 300_000,
      maxTotalBytes: 1e8,
      onEvicted() {},
    });
    return { replicas: [store], settle: async () => {}, close: () => store.close() };
  });
  t.pass('every sequence ends as expected');
});

t.test('a key on two replicas with Redis', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);

  t.test('random sequences', async (t) => {
    await checkSequences(async () => {
      const replicas = await createReplicas(t, url);
      const both = [await replicas.add(), await replicas.add()] as const;
      return {
        replicas: both.map(({ store }) => store),
        settle: replicas.settle,
        async close() {
          await Promise.all(both.map(({ store }) => store.close()));
          replicas.redis.disconnect();
        },
      };
    });
    t.pass('every sequence ends as expected');
  });

  for (const isEmptied of [false, true]) {
    t.test(`a question that is asked again while Redis ${isEmptied ? 'is emptied' : 'is unavailable'}`, async (t) => {
      const replicas = await createReplicas(t, url);
      const [a, b] = [await replicas.add(), await replicas.add()] as [TestReplica, TestReplica];
      const create = async ({ store }: TestReplica) => store.create(info(), KEY);
      const first = await create(a);
      await replicas.settle();
      a.isConnected = false;
      (first.log as WritableLog).end(failure('upstream_failed', true));
      await replicas.settle();
      const second = await create(a);
      t.equal(second.created, true, 'it is asked again');
      t.equal((await create(a)).log.info.id, second.log.info.id, 'once');
      if (isEmptied) await replicas.redis.flushdb();
      for (const { id } of [a, b]) await replicas.redis.set(replicas.leaseKey(id), '1');
      a.reconnect();
      await replicas.advance(5_000);
      t.equal((await create(b)).log.info.id, second.log.info.id, 'another replica finds the answer that runs');
      t.equal((await create(a)).log.info.id, second.log.info.id);
      (second.log as WritableLog).end(COMPLETE);
      await replicas.settle();
      t.equal((await create(b)).log.info.id, second.log.info.id, 'also when it has ended');
    });
  }
});
