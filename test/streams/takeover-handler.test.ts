import t, { type Test } from 'tap';
import { createCredentials } from '../../plugins/auth/revocation.ts';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import type { ModelPrice } from '../../plugins/config/price-file.ts';
import type { Limits } from '../../plugins/limits/index.ts';
import { reservationOf, type Spent } from '../../plugins/limits/reservation.ts';
import type { GenerateOptions, Prompt } from '../../plugins/llm/client.ts';
import type { Llm } from '../../plugins/llm/index.ts';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { AdmissionControl } from '../../plugins/streams/admission.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import { createGenerationStarter } from '../../plugins/streams/start-generation.ts';
import { createTakeoverHandler, serializePrompt } from '../../plugins/streams/takeover.ts';
import type { StreamInfo, WritableLog } from '../../plugins/streams/types.ts';
import type { EndedGeneration } from '../../plugins/usage/index.ts';
import type { ContentPart } from '../../providers/types.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { createLog, newId, text } from './conformance.ts';
import { follow } from './replica-pair.ts';

/** Tests that a log whose producer is dead is continued, or ends as lost. */

const GRACE_MS = 1_000;
/** Mark of the credential of the question. */
const MARK = 'mark';
/** Estimate that the dead producer has charged. */
const ESTIMATE = { prompt: 10, total: 100 };
/** Everything happens within a few turns. */
const WAIT_MS = 5_000;
const PROMPT: Prompt = { messages: [{ role: 'user', content: 'the question' }] };
const LOST = { type: 'error', code: 'stream_lost', retryable: true, status: 502 };
const route = (onMidStreamFailure: string) =>
  ({ name: 'm', label: 'm', onMidStreamFailure, targets: [{}] }) as unknown as ModelRoute;

/** Metrics of which a test reads the takeovers, the tokens and the cost. */
function fakeMetrics() {
  const outcomes: string[] = [];
  const spent: Record<string, string | number>[] = [];
  const costs: Record<string, string | number>[] = [];
  const ignored = { inc() {}, dec() {}, observe() {} };
  const takeovers = { inc: ({ outcome }: { outcome: string }) => outcomes.push(outcome) };
  const tokens = { inc: (labels: object, count: number) => spent.push({ ...labels, count }) };
  const cost = { inc: (labels: object, usd: number) => costs.push({ ...labels, usd }) };
  const keyLabels = { labelOf: (owner: string) => `label of ${owner}` };
  const known: Record<string, unknown> = { takeovers, tokens, cost, keyLabels };
  const metrics = new Proxy(known, { get: (own, name) => own[String(name)] ?? ignored }) as unknown as Metrics;
  return { metrics, outcomes, spent, costs };
}

interface SetUpOptions {
  readonly maxGenerations?: number;
  readonly isModelKnown?: boolean;
  /** Price that all targets of the model have. */
  readonly price?: ModelPrice;
  /** Prices of its targets, if they differ. */
  readonly prices?: readonly ModelPrice[];
}

function setUp(t: Test, { maxGenerations = 10, isModelKnown = true, price, prices }: SetUpOptions = {}) {
  const clock = manualClock();
  const { metrics, outcomes, spent, costs } = fakeMetrics();
  const store = new MemoryStore({
    clock,
    highWaterMark: 1e6,
    flushMs: 0,
    ttlMs: 1e6,
    maxTotalBytes: 1e8,
    onEvicted() {},
  });
  t.teardown(() => store.close());
  const admission = new AdmissionControl(maxGenerations);
  const calls: {
    prompt: Prompt;
    owner: string | undefined;
    partialAnswer: string | undefined;
    signal: AbortSignal;
    onPart(part: unknown): unknown;
  }[] = [];
  const llm = {
    route() {
      if (!isModelKnown) throw new Error('unknown model');
      return route('continue');
    },
    commonPrice: () => price,
    prices: () => prices ?? (price && [price]),
    generate(
      _route: unknown,
      prompt: Prompt,
      sink: { onPart(part: unknown): unknown },
      signal: AbortSignal,
      options?: GenerateOptions,
    ) {
      const { owner, partialAnswer } = options ?? {};
      calls.push({ prompt, owner, partialAnswer, signal, onPart: sink.onPart });
    },
  } as unknown as Llm;
  const logger = { warn() {}, info() {}, error() {} } as never;
  const records: EndedGeneration[] = [];
  const usage = { record: (ended: EndedGeneration) => void records.push(ended) };
  const startGeneration = createGenerationStarter({
    clock,
    metrics,
    usage,
    llm,
    admission,
    states: { save: () => {}, isMissing: () => false, restore: async (_owner, messages) => messages },
    maxChars: 1e6,
  });
  const credentials = createCredentials({ clock, now: clock.now, log: logger });
  t.teardown(() => credentials.close());
  const key = { id: 'k', mark: MARK, name: 'key:o', expires: Number.POSITIVE_INFINITY };
  const accepted = credentials.prepare([key]);
  accepted.apply();
  const findCredential = (mark: string | undefined) => (mark === MARK ? accepted.get('k') : undefined);
  const charged: (number | undefined)[] = [];
  const limits: Pick<Limits, 'adoptReservation'> = {
    adoptReservation({ estimate, charges = [] }, prices) {
      const holds = charges.map(() => ({ settle: ({ cost }: Spent) => void charged.push(cost) }));
      return reservationOf(estimate, holds, prices, 0.5);
    },
  };
  const takeOver = createTakeoverHandler({
    metrics,
    usage,
    llm,
    limits,
    log: logger,
    admission,
    startGeneration,
    findCredential,
  });
  const createFilled = async (parts: readonly ContentPart[], changes: Partial<StreamInfo> = {}) => {
    const info = { id: newId(), model: 'm', graceMs: GRACE_MS, owner: 'o', mark: MARK, estimate: ESTIMATE };
    const log = await createLog(store, { ...info, ...changes });
    for (const part of parts) void log.append(part);
    return log;
  };
  /** Changes the key, or removes it. */
  const reload = (keys: readonly Partial<typeof key>[]) =>
    credentials.prepare(keys.map((changes) => ({ ...key, ...changes }))).apply();
  return { clock, admission, calls, outcomes, spent, costs, records, charged, takeOver, createFilled, reload };
}

const serialized = JSON.stringify(PROMPT);
const toolCall: ContentPart = { type: 'tool_call', index: 0, id: 'i', name: 'n', arguments: '{}' };
const reasoning: ContentPart = { type: 'reasoning', text: 'thinking' };

for (const [what, parts, partialAnswer] of [
  ['text', [text('one '), text('two')], 'one two'],
  ['text after reasoning', [reasoning, text('one')], 'one'],
  ['reasoning only', [reasoning], ''],
  ['nothing', [], ''],
  ['a text of many slices', [text('x'.repeat(200_000))], 'x'.repeat(200_000)],
] as const) {
  t.test(`an answer with ${what} is continued`, async (t) => {
    const { takeOver, createFilled, calls, outcomes, admission } = setUp(t);
    const log = await createFilled(parts);
    takeOver(log, serialized);
    await until(() => calls.length === 1, 'the model is asked', WAIT_MS);
    t.same(calls[0]?.prompt, PROMPT);
    t.equal(calls[0]?.partialAnswer, partialAnswer);
    t.equal(calls[0]?.owner, 'o', 'the owner of the stream');
    t.same(outcomes, ['continued']);
    t.equal(admission.active, 1);
    const reader = await follow(log);
    calls[0]?.onPart(text(' more'));
    calls[0]?.onPart({ type: 'finish', reason: 'stop' });
    await until(() => reader.last !== undefined, 'the answer ends', WAIT_MS);
    t.match(reader.last, { terminal: { type: 'end' }, answer: `${partialAnswer} more` });
    t.equal(admission.active, 0);
  });
}

const reasons: [
  string,
  Parameters<typeof setUp>[1],
  readonly ContentPart[],
  string | undefined,
  ((admission: AdmissionControl) => void)?,
][] = [
  ['has no prompt in Redis', {}, [text('one')], undefined],
  ['has a tool call', {}, [text('one'), toolCall], serialized],
  ['has a tool call behind many slices of text', {}, [text('x'.repeat(200_000)), toolCall, text('y')], serialized],
  ['begins with a tool call', {}, [toolCall, text('one')], serialized],
  ['finds no free slot', { maxGenerations: 0 }, [text('one')], serialized],
  ['comes to a replica that is draining', {}, [text('one')], serialized, (admission) => admission.close()],
  ['has a model that this replica does not know', { isModelKnown: false }, [text('one')], serialized],
  ['has a prompt that cannot be read', {}, [text('one')], '{'],
];
for (const [what, options, parts, prompt, prepare] of reasons) {
  t.test(`an answer that ${what} ends as lost`, async (t) => {
    const { takeOver, createFilled, calls, outcomes, spent, admission } = setUp(t, options);
    const log = await createFilled(parts);
    prepare?.(admission);
    const reader = await follow(log);
    takeOver(log, prompt);
    await until(() => reader.last !== undefined, 'the log ends', WAIT_MS);
    t.match(reader.last?.terminal, LOST);
    t.equal(calls.length, 0, 'no model is asked');
    t.same(outcomes, ['lost']);
    t.equal(admission.active, 0, 'no slot is held');
    const common = { key: 'label of o', model: options?.isModelKnown === false ? '_unknown' : 'm', basis: 'estimated' };
    const output = Math.max(90, Math.ceil(log.length / 4));
    t.same(
      spent,
      [
        { ...common, kind: 'input', count: 10 },
        { ...common, kind: 'output', count: output },
      ],
      'the estimate is counted once, in place of the producer',
    );
  });
}

t.test('an answer that a client has stopped is not continued, and its estimate is counted', async (t) => {
  const { takeOver, createFilled, calls, outcomes, spent } = setUp(t);
  const log = await createFilled([text('one')]);
  const reader = await follow(log);
  takeOver(log, serialized, true);
  await until(() => reader.last !== undefined, 'the log ends', WAIT_MS);
  t.match(reader.last?.terminal, { type: 'end', finishReason: 'stopped' });
  t.equal(calls.length, 0, 'no model is asked');
  t.same(outcomes, []);
  t.match(spent, [
    { kind: 'input', count: 10 },
    { kind: 'output', count: 90 },
  ]);
});

t.test(
  'an answer that ends in place of its producer costs what its estimate does, if the model has one price',
  async (t) => {
    const price = { input: 2, output: 10 };
    const end = async (options: SetUpOptions, isStopped: boolean) => {
      const { takeOver, createFilled, costs } = setUp(t, options);
      const log = await createFilled([text('one')]);
      const reader = await follow(log);
      takeOver(log, undefined, isStopped);
      await until(() => reader.last !== undefined, 'the log ends', WAIT_MS);
      return costs;
    };
    const expected = [{ key: 'label of o', model: 'm', basis: 'estimated', usd: (10 * 2 + 90 * 10) / 1e6 }];
    t.same(await end({ price }, false), expected, 'lost');
    t.same(await end({ price }, true), expected, 'stopped');
    t.same(await end({}, false), [], 'no price');
    t.same(await end({ price, isModelKnown: false }, false), [], 'a model that is not configured here');
  },
);

t.test('an answer that ends in place of its producer is settled for budgets', async (t) => {
  const charges = [{ key: '2026-11-27:o', ends: 1, id: 'a:1', estimate: 5e8 }];
  const end = async (options: SetUpOptions, isStopped: boolean) => {
    const { takeOver, createFilled, charged } = setUp(t, options);
    const log = await createFilled([text('one')], { charges });
    const reader = await follow(log);
    takeOver(log, undefined, isStopped);
    await until(() => reader.last !== undefined && charged.length > 0, 'the log ends, and the charge', WAIT_MS);
    return charged;
  };
  const price = { input: 2, output: 10 };
  t.same(await end({ price }, false), [920 / 1e6], 'lost: the cost of the estimated tokens');
  t.same(await end({ price }, true), [920 / 1e6], 'stopped');
  t.same(await end({}, false), [0.5], 'no price: the estimate');
  const prices = [price, { input: 1e6, output: 2e6 }];
  t.same(await end({ prices }, false), [10 + 180], 'several prices: the highest one');
  t.same(await end({ price, isModelKnown: false }, false), [0.5], 'a model that is not configured here');
});

t.test('a continued answer is settled for budgets at its end', async (t) => {
  const { takeOver, createFilled, calls, charged } = setUp(t);
  const charges = [{ key: '2026-11-27:o', ends: 1, id: 'a:1', estimate: 5e8 }];
  const log = await createFilled([text('one')], { charges });
  takeOver(log, serialized);
  await until(() => calls.length === 1, 'the model is asked', WAIT_MS);
  t.same(charged, [], 'not before');
  const usage = { inputTokens: 50, outputTokens: 17, cost: 0.25 };
  calls[0]?.onPart({ type: 'finish', reason: 'stop', usage });
  t.same(charged, [0.25]);
});

t.test('an answer has its record before its end, after which no other replica would write one', async (t) => {
  for (const [what, prompt, isStopped] of [
    ['an answer that is continued', serialized, false],
    ['a lost answer', undefined, false],
    ['a stopped answer', undefined, true],
  ] as const) {
    const { takeOver, createFilled, calls, records } = setUp(t);
    const log = await createFilled([text('one')]);
    let recordsAtEnd: number | undefined;
    const end = log.end.bind(log);
    log.end = (terminal) => {
      recordsAtEnd = records.length;
      end(terminal);
    };
    takeOver(log, prompt, isStopped);
    if (prompt !== undefined) await until(() => calls.length === 1, 'the model is asked', WAIT_MS);
    calls[0]?.onPart({ type: 'finish', reason: 'stop' });
    await until(() => recordsAtEnd !== undefined, 'the log ends', WAIT_MS);
    t.equal(recordsAtEnd, 1, what);
  }
});

t.test('a continued answer is counted by its provider; what the dead producer had is estimated', async (t) => {
  const { takeOver, createFilled, calls, spent } = setUp(t);
  const log = await createFilled([text('x'.repeat(40))]);
  const reader = await follow(log);
  takeOver(log, serialized);
  await until(() => calls.length === 1, 'the model is asked', WAIT_MS);
  // As the LLM client adds it up: the call has counted 30 and 7 tokens.
  const usage = { inputTokens: 50, outputTokens: 17, totalTokens: 67 };
  calls[0]?.onPart({ type: 'finish', reason: 'stop', usage, uncounted: { input: 20, output: 10 } });
  await until(() => reader.last !== undefined, 'the answer ends', WAIT_MS);
  const of = (kind: string, basis: string, count: number) => ({ key: 'label of o', model: 'm', kind, basis, count });
  t.same(spent, [
    of('input', 'counted', 30),
    of('output', 'counted', 7),
    of('input', 'estimated', 20),
    of('output', 'estimated', 10),
  ]);
});

t.test('an answer of a producer that stored no estimate counts by its length', async (t) => {
  const { takeOver, createFilled, spent } = setUp(t);
  const log = await createFilled([text('x'.repeat(41))], { estimate: undefined });
  const reader = await follow(log);
  takeOver(log, undefined);
  await until(() => reader.last !== undefined, 'the log ends', WAIT_MS);
  t.match(spent, [{ kind: 'output', basis: 'estimated', count: 11 }]);
  t.equal(spent.length, 1);
});

t.test('an answer whose key this replica does not accept ends as lost', async (t) => {
  for (const [what, mark, keys] of [
    ['an unknown key', 'other', [{}]],
    ['a question without a mark', '', [{}]],
    ['a key that has expired', MARK, [{ expires: 0 }]],
    ['a key that was removed', MARK, []],
  ] as const) {
    const { takeOver, createFilled, calls, outcomes, admission, reload } = setUp(t);
    reload(keys);
    const log = await createFilled([text('one')], { mark });
    const reader = await follow(log);
    takeOver(log, serialized);
    await until(() => reader.last !== undefined, 'the log ends', WAIT_MS);
    t.match(reader.last?.terminal, LOST, what);
    t.equal(calls.length, 0, `${what}: no model is asked`);
    t.same(outcomes, ['lost'], what);
    t.equal(admission.active, 0, `${what}: no slot is held`);
  }
});

t.test('a continued answer ends when its key is revoked', async (t) => {
  const { takeOver, createFilled, calls, admission, reload } = setUp(t);
  const log = await createFilled([text('one')]);
  const reader = await follow(log);
  takeOver(log, serialized);
  await until(() => calls.length === 1, 'the model is asked', WAIT_MS);
  reload([]);
  await until(() => reader.last !== undefined, 'the answer ends', WAIT_MS);
  t.match(reader.last?.terminal, { type: 'error', code: 'revoked', retryable: false });
  t.equal(calls[0]?.signal.aborted, true);
  t.equal(admission.active, 0, 'no slot is held');
});

t.test('a log that cannot be read ends as lost', async (t) => {
  const { takeOver, createFilled, outcomes } = setUp(t);
  const log = await createFilled([text('one')]);
  let terminal: unknown;
  takeOver(
    {
      info: log.info,
      length: 3,
      read: () => Promise.reject(new Error('no reply')),
      end: (end: unknown) => {
        terminal = end;
      },
    } as unknown as WritableLog,
    serialized,
  );
  await until(() => terminal !== undefined, 'the log ends', WAIT_MS);
  t.match(terminal, LOST);
  t.same(outcomes, ['lost']);
});

t.test('a continued answer runs for as long as it is read, and then for the grace time', async (t) => {
  const { clock, takeOver, createFilled, calls } = setUp(t);
  const log = await createFilled([text('one')]);
  const reader = await follow(log);
  takeOver(log, serialized);
  await until(() => calls.length === 1, 'the model is asked', WAIT_MS);
  clock.advance(10 * GRACE_MS);
  t.equal(calls[0]?.signal.aborted, false, 'it is read');
  reader.close();
  clock.advance(GRACE_MS - 1);
  t.equal(calls[0]?.signal.aborted, false);
  clock.advance(1);
  t.equal(calls[0]?.signal.aborted, true, 'nobody reads it');
});

t.test('a continued answer that nobody reads is aborted after the grace time', async (t) => {
  const { clock, takeOver, createFilled, calls } = setUp(t);
  const log = await createFilled([text('one')]);
  takeOver(log, serialized);
  await until(() => calls.length === 1, 'the model is asked', WAIT_MS);
  clock.advance(GRACE_MS);
  t.equal(calls[0]?.signal.aborted, true);
});

t.test('serializePrompt: only prompts whose answers may be continued, up to a length', (t) => {
  t.same(JSON.parse(serializePrompt(route('continue'), PROMPT) as string), PROMPT);
  t.equal(serializePrompt(route('error'), PROMPT), undefined);
  const ofLength = (chars: number): Prompt => {
    const empty = JSON.stringify({ messages: [{ role: 'user', content: '' }] }).length;
    return { messages: [{ role: 'user', content: 'x'.repeat(chars - empty) }] };
  };
  t.equal(serializePrompt(route('continue'), ofLength(262_144))?.length, 262_144);
  t.equal(serializePrompt(route('continue'), ofLength(262_145)), undefined);
  t.end();
});
