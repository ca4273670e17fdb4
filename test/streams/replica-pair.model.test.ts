import fc from 'fast-check';
import t from 'tap';
import type { Terminal, WritableLog } from '../../plugins/streams/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, newId, text } from './conformance.ts';
import { createReplicas, follow, type Received, type TestReplica, type TestReplicas } from './replica-pair.ts';

/**
 * Runs random sequences on two replicas and a clock that the test advances: readers come and leave at either, logs
 * grow and end, messages are lost and connections break. Readers get exactly what was written, and each producer
 * knows how many readers its log has. `RUNS` is the number of sequences.
 */

const END: Terminal = { type: 'end', finishReason: 'stop' };
/** Time after which every replica knows everything, if nothing fails. */
const RECOVERY_MS = 12_000;

interface Log {
  readonly log: WritableLog;
  readonly producer: number;
  written: string;
  isEnded: boolean;
  /** Number of readers, as the producer knows it. */
  count: number;
  readonly readers: { replica: number; received: Received }[];
}

interface Real {
  readonly replicas: TestReplicas;
  readonly both: readonly [TestReplica, TestReplica];
  readonly logs: Log[];
  hadFault: boolean;
}

type Step = (real: Real) => void | Promise<void>;

const replica = fc.nat({ max: 1 });
const pick = fc.nat({ max: 7 });

const create =
  (producer: number): Step =>
  async ({ both, logs }) => {
    const log = await createLog((both[producer] as TestReplica).store, {
      id: newId(),
      model: 'm',
      graceMs: 1_000,
      owner: 'o',
    });
    const entry: Log = { log, producer, written: '', isEnded: false, count: 0, readers: [] };
    const onReaders = (count: number) => {
      entry.count = count;
    };
    log.subscribe({ onReaders, onStop() {}, onTakenOver() {} });
    logs.push(entry);
  };
const append =
  (index: number, count: number): Step =>
  ({ logs }) => {
    const entry = logs[index % logs.length];
    if (entry === undefined || entry.isEnded) return;
    for (let i = 0; i < count; i++) {
      const part = `${entry.written.length} `;
      entry.written += part;
      void entry.log.append(text(part));
    }
  };
const end =
  (index: number): Step =>
  ({ logs }) => {
    const entry = logs[index % logs.length];
    if (entry === undefined) return;
    entry.isEnded = true;
    entry.log.end(END);
  };
const read =
  (index: number, at: number): Step =>
  async ({ both, logs }) => {
    const entry = logs[index % logs.length];
    // A replica that cannot ask Redis refuses the reader, which comes back later.
    const log = await (both[at] as TestReplica).store.open(entry?.log.info.id ?? '').catch(() => undefined);
    if (entry === undefined || log === undefined) return;
    entry.readers.push({ replica: at, received: await follow(log) });
  };
const leave =
  (index: number, which: number): Step =>
  ({ logs }) => {
    const entry = logs[index % logs.length];
    const reader = entry?.readers[which % (entry.readers.length || 1)];
    if (entry === undefined || reader === undefined) return;
    reader.received.close();
    entry.readers.splice(entry.readers.indexOf(reader), 1);
  };
const loseMessages: Step = (real) => {
  real.hadFault = true;
  real.replicas.isLost = () => true;
};
const repair: Step = ({ replicas, both }) => {
  replicas.isLost = () => false;
  for (const each of both) {
    each.reconnect();
    each.resubscribe();
  }
};
const disconnect =
  (at: number): Step =>
  (real) => {
    real.hadFault = true;
    (real.both[at] as TestReplica).isConnected = false;
  };
const settle: Step = ({ replicas }) => replicas.settle();
const advance =
  (ms: number): Step =>
  ({ replicas }) =>
    replicas.advance(ms);

const named = (name: string, step: Step) => Object.assign(step, { toString: () => name });
const steps = [
  replica.map((at) => named(`create(${at})`, create(at))),
  fc.tuple(pick, fc.constantFrom(1, 1, 1, 3, 300)).map(([i, n]) => named(`append(${i}, ${n})`, append(i, n))),
  fc.tuple(pick, fc.constantFrom(1, 1, 1, 3, 300)).map(([i, n]) => named(`append(${i}, ${n})`, append(i, n))),
  pick.map((i) => named(`end(${i})`, end(i))),
  fc.tuple(pick, replica).map(([i, at]) => named(`read(${i}, ${at})`, read(i, at))),
  fc.tuple(pick, replica).map(([i, at]) => named(`read(${i}, ${at})`, read(i, at))),
  fc.tuple(pick, pick).map(([i, which]) => named(`leave(${i}, ${which})`, leave(i, which))),
  fc.constant(named('loseMessages', loseMessages)),
  fc.constant(named('repair', repair)),
  replica.map((at) => named(`disconnect(${at})`, disconnect(at))),
  fc.constant(named('settle', settle)),
  fc.constantFrom(10, 250, 1_000, 3_000).map((ms) => named(`advance(${ms})`, advance(ms))),
];

function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected)
    throw new Error(`${what}: ${JSON.stringify(actual)} in place of ${JSON.stringify(expected)}`);
}

function checkCounts({ logs }: Real): void {
  for (const { producer, isEnded, count, readers } of logs) {
    const local = readers.filter(({ replica: at }) => at === producer).length;
    if (!isEnded) same(count, local + (local < readers.length ? 1 : 0), 'readers that the producer counts');
  }
}

async function checkExpiry({ redis, key }: TestReplicas): Promise<void> {
  for (const name of await redis.keys(key('*'))) {
    if (!name.includes('replica') && (await redis.pttl(name)) < 0) throw new Error(`${name} never expires`);
  }
}

/** Checks everything, after all faults have ended. */
async function check(real: Real): Promise<void> {
  const { replicas, logs } = real;
  await replicas.settle();
  if (!real.hadFault) checkCounts(real);
  await repair(real);
  await replicas.advance(RECOVERY_MS);
  checkCounts(real);
  await checkExpiry(replicas);
  for (const { log, written, isEnded, readers } of logs) {
    for (const { received, replica: at } of readers) {
      same(received.text, written, `text of a reader on ${at}`);
      same(received.last?.terminal !== undefined, isEnded, `end of a reader on ${at}`);
    }
    log.end(END);
  }
  await replicas.settle();
  for (const { readers } of logs) {
    for (const { received } of readers) same(received.last?.terminal?.type, 'end', 'terminal');
  }
  await replicas.advance(RECOVERY_MS);
  if (replicas.clock.pending > 2) throw new Error(`${replicas.clock.pending} timers are pending`);
  await checkExpiry(replicas);
}

t.test('random sequences of two replicas on a manual clock', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const run = fc.asyncProperty(fc.array(fc.oneof(...steps), { maxLength: 30, size: 'max' }), async (sequence) => {
    const replicas = await createReplicas(t, url);
    const both = [await replicas.add({ flushMs: 10 }), await replicas.add({ flushMs: 10 })] as const;
    const real: Real = { replicas, both, logs: [], hadFault: false };
    for (const step of [create(0), ...sequence]) await step(real);
    await check(real);
    await Promise.all(both.map(({ store }) => store.close()));
    replicas.redis.disconnect();
  });
  await fc.assert(run, { numRuns: Number(process.env.RUNS ?? 30) });
  t.pass('every sequence ends as expected');
});
