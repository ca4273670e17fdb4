import t, { type Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import type { Stream, Terminal } from '../../plugins/streams/api.ts';
import { createLifetime } from '../../plugins/streams/lifetime.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import { ProviderError } from '../../providers/errors.ts';
import type { FinishPart } from '../../providers/types.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import {
  type BareStreams,
  bareStreams,
  countFreeSlots,
  finish,
  GRACE_MS,
  MAX_GENERATIONS,
  type ModelCall,
  readAll,
} from './bare-streams.ts';

/** Tests the ends of a generation: what its readers get, what its owner pays, and what is released. */

const OWNER: Identity = { owner: 'key:a', maxConcurrent: 1, tokensPerMinute: 10_000 };
const MAX_CHARS = 2_000;
/** The prompt of `start` is one token. */
const PROMPT_TOKENS = 1;
/** Charged without a count of the provider: the prompt and `maxTokens`. */
const ESTIMATE = PROMPT_TOKENS + 999;
/** The same for a question without `maxTokens`. */
const DEFAULT_ESTIMATE = PROMPT_TOKENS + 1_024;

const text = ({ sink }: ModelCall, characters: number) => sink.onPart({ type: 'text', text: 'x'.repeat(characters) });
const finishWith = ({ sink }: ModelCall, usage?: FinishPart['usage']) =>
  void sink.onPart({ type: 'finish', reason: 'stop', ...(usage && { usage }) });
const FAULT = new ProviderError('upstream_failed', { reason: 'r', retryable: true });

interface End {
  readonly name: string;
  readonly end: (service: BareStreams, stream: Stream, call: ModelCall) => unknown;
  readonly terminal: object;
  readonly tokens: number;
  /** True if the provider has counted the tokens. */
  readonly isCounted?: boolean;
  readonly text: number;
}

const ENDS: End[] = [
  {
    name: 'complete, with the usage of the provider',
    end: (_, __, call) => {
      text(call, 400);
      finishWith(call, { inputTokens: 30, outputTokens: 50 });
    },
    terminal: { type: 'end', finishReason: 'stop', usage: { inputTokens: 30, outputTokens: 50 } },
    tokens: 80,
    isCounted: true,
    text: 400,
  },
  {
    name: 'complete, with reasoning, and a total that is more than its parts',
    end: (_, __, call) => {
      void call.sink.onPart({ type: 'reasoning', text: 'x'.repeat(200) });
      finishWith(call, { inputTokens: 30, outputTokens: 50, totalTokens: 95, reasoningTokens: 15, cachedTokens: 7 });
    },
    terminal: { type: 'end', finishReason: 'stop' },
    tokens: 95,
    isCounted: true,
    text: 0,
  },
  {
    name: 'complete, with counts that cannot be',
    end: (_, __, call) => {
      text(call, 400);
      finishWith(call, { inputTokens: -30, outputTokens: Number.POSITIVE_INFINITY, reasoningTokens: -1 });
    },
    terminal: { type: 'end', finishReason: 'stop' },
    tokens: ESTIMATE,
    text: 400,
  },
  {
    name: 'stopped while its model was reasoning',
    end: async (_, stream, call) => {
      void call.sink.onPart({ type: 'reasoning', text: 'x'.repeat(4_400) });
      await stream.stop();
    },
    terminal: { type: 'end', finishReason: 'stopped' },
    tokens: PROMPT_TOKENS + 1_100,
    text: 0,
  },
  {
    name: 'complete, without a usage',
    end: (_, __, call) => {
      text(call, 400);
      finishWith(call);
    },
    terminal: { type: 'end', finishReason: 'stop' },
    tokens: ESTIMATE,
    text: 400,
  },
  {
    name: 'stopped by a client',
    end: async (_, stream, call) => {
      text(call, 1_200);
      await stream.stop();
    },
    terminal: { type: 'end', finishReason: 'stopped' },
    tokens: ESTIMATE,
    text: 1_200,
  },
  {
    name: 'stopped before the first token',
    end: (_, stream) => stream.stop(),
    terminal: { type: 'end', finishReason: 'stopped' },
    tokens: ESTIMATE,
    text: 0,
  },
  {
    name: 'abandoned by its readers',
    end: async ({ clock }, stream, call) => {
      const reader = await stream.read(0);
      text(call, 800);
      reader?.close();
      clock.advance(GRACE_MS);
    },
    terminal: { type: 'error', code: 'abandoned', retryable: true, status: 404 },
    tokens: ESTIMATE,
    text: 800,
  },
  {
    name: 'failed after some text',
    end: (_, __, call) => {
      text(call, 600);
      call.sink.onFault(FAULT);
    },
    terminal: { type: 'error', code: 'upstream_failed', retryable: true, status: 502 },
    tokens: ESTIMATE,
    text: 600,
  },
  {
    name: 'failed before the first token',
    end: (_, __, call) => call.sink.onFault(FAULT),
    terminal: { type: 'error', code: 'upstream_failed' },
    tokens: 0,
    text: 0,
  },
  {
    name: 'failed by a fault of the service',
    end: (_, __, call) => {
      text(call, 40);
      call.sink.onFault(new TypeError('secret'));
    },
    terminal: { type: 'error', code: 'internal', message: 'Internal error.', status: 500, retryable: false },
    tokens: ESTIMATE,
    text: 40,
  },
  {
    name: 'longer than the service allows',
    end: (_, __, call) => {
      text(call, MAX_CHARS);
      text(call, 400);
    },
    terminal: { type: 'error', code: 'limit_exceeded', retryable: false, status: 502 },
    tokens: ESTIMATE,
    text: MAX_CHARS + 400,
  },
  {
    name: 'ended by a shutdown',
    end: ({ app }, _, call) => {
      text(call, 80);
      app.streams.endAll();
    },
    terminal: { type: 'error', code: 'stream_lost', retryable: true },
    tokens: ESTIMATE,
    text: 80,
  },
];

/** Longest answers of ends that need other ones. */
const MAX_CHARS_OF: Readonly<Record<string, number>> = { 'stopped while its model was reasoning': 5_000 };

/** Asserts that exactly `tokens` tokens of `OWNER` are charged. */
async function assertCharged(t: Test, { fits }: BareStreams, tokens: number): Promise<void> {
  t.equal(await fits(OWNER, 10_000 - tokens), true, `not more than ${tokens} tokens are charged`);
  if (tokens > 0) t.equal(await fits(OWNER, 10_001 - tokens), false, `not less than ${tokens} tokens are charged`);
}

/** Returns the tokens that are counted for the key of `OWNER`. */
async function spentTokens({ app }: BareStreams): Promise<{ counted: number; estimated: number }> {
  const sumOf = async (basis: string) => {
    const of = (kind: string) => metricValue(app, 'sluice_tokens_total', { key: 'a', model: 'small', kind, basis });
    return (await of('input')) + (await of('output'));
  };
  return { counted: await sumOf('counted'), estimated: await sumOf('estimated') };
}

for (const { name, end, terminal, tokens, isCounted = false, text: characters } of ENDS) {
  t.test(`a generation that is ${name}: its end is final, its charge exact, its slots free`, async (t) => {
    const service = await bareStreams(t, { maxChars: MAX_CHARS_OF[name] ?? MAX_CHARS, highWaterMark: 100_000 });
    service.app.metrics.keyLabels.configure(['a']);
    const stream = await service.start(OWNER, { maxTokens: 999 });
    const call = service.calls[0] as ModelCall;
    await assertCharged(t, { ...service, fits: (who, n) => service.fits({ ...who, maxConcurrent: 2 }, n) }, 1_000);
    await end(service, stream, call);
    const read = await readAll(stream);
    t.match(read.terminal, terminal, 'readers get the terminal');
    t.equal(read.text.length, characters, 'and the text before it');
    t.equal(service.app.streams.active, 0, 'no generation is active');
    await assertCharged(t, service, tokens);

    const wasAborted = call.signal.aborted;
    text(call, 100);
    finishWith(call, { totalTokens: 9_000 });
    call.sink.onFault(FAULT);
    await stream.stop();
    service.clock.advance(GRACE_MS);
    t.same((await readAll(stream)).terminal, read.terminal, 'what follows the end changes nothing');
    await assertCharged(t, service, tokens);
    t.equal(call.signal.aborted, wasAborted, 'nor is a finished call aborted');
    const spent = { counted: isCounted ? tokens : 0, estimated: isCounted ? 0 : tokens };
    t.same(await spentTokens(service), spent, 'the metric has what is charged');
    const ended = await metricValue(service.app, 'sluice_generations_total');
    t.equal(ended, 1, 'one generation is counted');
    t.equal(await metricValue(service.app, 'sluice_generations_active'), 0, 'none is running');
    t.equal(
      await countFreeSlots(service),
      name === 'ended by a shutdown' ? 5 : MAX_GENERATIONS,
      'slots of the process',
    );
  });
}

t.test('an owner without a limit of tokens is counted as one with a limit', async (t) => {
  for (const { name, end, tokens } of ENDS) {
    const service = await bareStreams(t, { maxChars: MAX_CHARS_OF[name] ?? MAX_CHARS, highWaterMark: 100_000 });
    service.app.metrics.keyLabels.configure(['a']);
    const stream = await service.start({ owner: 'key:a' }, { maxTokens: 999 });
    await end(service, stream, service.calls[0] as ModelCall);
    const { counted, estimated } = await spentTokens(service);
    t.equal(counted + estimated, tokens, name);
  }
});

t.test('tokens of calls that broke off are estimated, and cached and reasoning tokens are counted apart', async (t) => {
  const service = await bareStreams(t);
  service.app.metrics.keyLabels.configure(['a']);
  await service.start(OWNER);
  const usage = { inputTokens: 50, outputTokens: 30, totalTokens: 80, cachedTokens: 9, reasoningTokens: 4 };
  const uncounted = { input: 20, output: 10 };
  void service.calls[0]?.sink.onPart({ type: 'finish', reason: 'stop', usage, uncounted });
  const of = (kind: string, basis: string) =>
    metricValue(service.app, 'sluice_tokens_total', { key: 'a', kind, basis });
  t.same([await of('input', 'counted'), await of('output', 'counted')], [30, 20]);
  t.same([await of('input', 'estimated'), await of('output', 'estimated')], [20, 10]);
  t.same([await of('cached', 'counted'), await of('reasoning', 'counted')], [9, 4]);
  await assertCharged(t, service, 80);
});

t.test('an answer that another replica has taken over is charged here, and its tokens count there', async (t) => {
  const clock = manualClock();
  const options = { clock, highWaterMark: 1_000, flushMs: 0, ttlMs: 1_000, maxTotalBytes: 1e9, onEvicted() {} };
  const store = new MemoryStore(options);
  const service = await bareStreams(t, { store });
  service.app.metrics.keyLabels.configure(['a']);
  const stream = await service.start(OWNER, { maxTokens: 999 });
  text(service.calls[0] as ModelCall, 400);
  store.get(stream.id)?.onTakenOver();
  t.equal(service.calls[0]?.signal.aborted, true, 'the call is aborted');
  t.same(await spentTokens(service), { counted: 0, estimated: 0 });
  await assertCharged(t, service, ESTIMATE);
});

t.test('the call of a model is aborted by every end that does not come from it', async (t) => {
  for (const { name, end } of ENDS) {
    const service = await bareStreams(t, { maxChars: MAX_CHARS_OF[name] ?? MAX_CHARS, highWaterMark: 100_000 });
    const stream = await service.start(OWNER);
    await end(service, stream, service.calls[0] as ModelCall);
    const isAborted = service.calls[0]?.signal.aborted;
    t.equal(isAborted, !/^complete|^failed/.test(name), name);
  }
});

t.test('an answer of exactly the longest length is complete', async (t) => {
  const service = await bareStreams(t, { maxChars: MAX_CHARS, highWaterMark: 100_000 });
  const stream = await service.start(OWNER);
  text(service.calls[0] as ModelCall, MAX_CHARS);
  finish(service, 0);
  t.match(await readAll(stream), { text: 'x'.repeat(MAX_CHARS), terminal: { type: 'end', finishReason: 'stop' } });
});

t.test('a model that throws when it is called ends the stream, and everything is released', async (t) => {
  const service = await bareStreams(t);
  const { calls } = service;
  calls.push = () => {
    throw new TypeError('secret');
  };
  const stream = await service.start(OWNER);
  t.match((await readAll(stream)).terminal, { type: 'error', code: 'internal' } as Terminal);
  t.equal(service.app.streams.active, 0, 'no generation is active');
  t.equal(await metricValue(service.app, 'sluice_generations_active'), 0);
  await assertCharged(t, service, 0);
});

const GRACE: [name: string, resumable: boolean, graceMs: number][] = [
  ['a client that can resume has the grace time', true, GRACE_MS],
  ['a client that cannot resume has none', false, 0],
];
for (const [name, resumable, graceMs] of GRACE) {
  t.test(`after the last reader has left, ${name}`, async (t) => {
    const service = await bareStreams(t);
    const { clock, calls } = service;
    const stream = await service.start(OWNER, {}, { resumable });
    t.equal(stream.resumable, resumable, 'the stream says so');
    const readers = [await stream.read(0), await stream.read(0)];
    clock.advance(60_000);
    readers[0]?.close();
    clock.advance(60_000);
    t.equal(calls[0]?.signal.aborted, false, 'the answer runs as long as one reader is attached');
    readers[1]?.close();
    if (graceMs > 0) {
      clock.advance(graceMs - 1);
      t.equal(calls[0]?.signal.aborted, false, 'it runs for the grace time');
      const back = await stream.read(0);
      clock.advance(60_000);
      t.equal(calls[0]?.signal.aborted, false, 'a reader that comes back in time keeps it running');
      back?.close();
      clock.advance(graceMs - 1);
      t.equal(calls[0]?.signal.aborted, false, 'the grace time begins again');
    }
    clock.advance(graceMs > 0 ? 1 : 0);
    t.equal(calls[0]?.signal.aborted, true, 'then the call is aborted');
    t.match((await readAll(stream)).terminal, { code: 'abandoned' } as Terminal);
  });

  t.test(`a stream that was never read is abandoned later: ${name}`, async (t) => {
    const service = await bareStreams(t);
    const stream = await service.start(OWNER, {}, { resumable });
    const unreadMs = graceMs || 10_000;
    service.clock.advance(unreadMs - 1);
    t.equal(service.calls[0]?.signal.aborted, false, `it runs for ${unreadMs} ms`);
    service.clock.advance(1);
    t.match((await readAll(stream)).terminal, { code: 'abandoned' } as Terminal);
    t.equal(service.clock.pending, 1, 'only the expiry of the stream is pending');
  });
}

t.test('a generation that ends in time leaves no timer but the expiry of its stream', async (t) => {
  const service = await bareStreams(t);
  const stream = await service.start(OWNER);
  (await stream.read(0))?.close();
  finish(service, 0);
  t.equal(service.clock.pending, 1);
});

t.test('a reader that leaves between the end of a generation and the end of its log sets no timer', (t) => {
  const clock = manualClock();
  let abandoned = 0;
  const lifetime = createLifetime(GRACE_MS, clock, () => (abandoned += 1));
  lifetime.onReaders(1);
  lifetime.cancel();
  lifetime.onReaders(0);
  t.equal(clock.pending, 0);
  clock.advance(GRACE_MS);
  t.equal(abandoned, 0);
  t.end();
});

t.test('readers are counted while they are attached, each once', async (t) => {
  const service = await bareStreams(t);
  const readers = () => metricValue(service.app, 'sluice_readers');
  const stream = await service.start(OWNER);
  const [first, second] = [await stream.read(0), await stream.read(0)];
  t.equal(await readers(), 2);
  t.equal(await stream.read(1), undefined, 'a position behind the end gets no reader');
  t.equal(await readers(), 2, 'and is not counted');
  first?.close();
  first?.close();
  t.equal(await readers(), 1, 'a reader that is closed twice is subtracted once');
  second?.close();
  t.equal(await readers(), 0);
});

t.test('idle() resolves when the last generation has ended, also for several callers', async (t) => {
  const service = await bareStreams(t);
  await service.app.streams.idle();
  t.pass('at once without generations');
  await service.start({ owner: 'a' });
  await service.start({ owner: 'b' });
  let idle = 0;
  for (let i = 0; i < 2; i++) void service.app.streams.idle().then(() => (idle += 1));
  finish(service, 0);
  await service.app.metrics.text(); // Several turns of the event loop.
  t.equal(idle, 0, 'not while one runs');
  finish(service, 1);
  await until(() => idle === 2, 'both callers are told');
});

t.test('a question that is admitted before the end of a drain and starts after it ends at once', async (t) => {
  const service = await bareStreams(t);
  const running = await service.start({ owner: 'b' });
  const late = service.start(OWNER); // Waits for the limits and the store.
  service.app.streams.close();
  service.app.streams.endAll();
  const stream = await late;
  t.match((await readAll(stream)).terminal, { code: 'stream_lost' } as Terminal, 'the late one');
  t.match((await readAll(running)).terminal, { code: 'stream_lost' } as Terminal, 'the running one');
  t.equal(service.calls[1]?.signal.aborted, true, 'its call is aborted');
  await service.app.streams.idle();
  await assertCharged(t, service, DEFAULT_ESTIMATE);
});
