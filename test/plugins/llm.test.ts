import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import { Breaker } from '../../plugins/llm/breaker.ts';
import { createLlmClient, type Prompt } from '../../plugins/llm/client.ts';
import { RetryBudget } from '../../plugins/llm/retry-budget.ts';
import { createTargets } from '../../plugins/llm/targets.ts';
import { ProviderError, type ProviderErrorCode, type ProviderErrorInit } from '../../providers/errors.ts';
import type { ChatRequest, Provider, StreamPart } from '../../providers/types.ts';
import { createApiKeys } from '../../providers/wire/api-keys.ts';
import { build } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';

/** Tests retries, fallbacks, continuations, breakers and cooldowns with a manual clock and scripted providers. */

const fault = (code: ProviderErrorCode, init: Partial<ProviderErrorInit> = {}) =>
  new ProviderError(code, { reason: 'r', retryable: true, ...init });
const SERVER_ERROR = fault('upstream_failed');
const textPart = (text: string): StreamPart => ({ type: 'text', text });
const FINISH: StreamPart = { type: 'finish', reason: 'stop' };
const ANSWER = [textPart('whole'), FINISH];

/** The script of one call: parts, then an error or silence. */
type CallScript = readonly (StreamPart | ProviderError | 'silence')[];

interface FakeProvider extends Provider {
  readonly requests: ChatRequest[];
}

/** A provider that plays one script for each call, and repeats the last one. */
function fake(name: string, calls: CallScript[], supportsContinuation = true): FakeProvider {
  const requests: ChatRequest[] = [];
  return {
    name,
    supportsContinuation,
    requests,
    async *stream(request, signal) {
      const steps = calls[requests.length] ?? calls.at(-1) ?? [];
      requests.push(request);
      for (const step of steps) {
        if (step instanceof ProviderError) throw step;
        if (step !== 'silence') yield step;
        else await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      }
    },
    async close() {},
  };
}

interface SetUp {
  clock: ManualClock;
  /** Runs one generation to its end, while the clock advances. `called` lists the providers in order. */
  generate(
    prompt?: Prompt,
    signal?: AbortSignal,
  ): Promise<{ text: string; finish?: StreamPart; fault?: unknown; called: string[] }>;
  metric(name: string): Promise<number>;
}

async function setUp(
  t: Test,
  providers: FakeProvider[],
  route: Partial<ModelRoute> = {},
  maxConcurrent = Number.POSITIVE_INFINITY,
): Promise<SetUp> {
  const app = await build(t);
  const { metrics, tracing } = app;
  const clock = manualClock();
  const targets = createTargets({
    providers: new Map(providers.map((provider) => [provider.name, provider])),
    maxConcurrent: () => maxConcurrent,
    clock,
    metrics,
  });
  const client = createLlmClient({
    targets,
    budget: new RetryBudget(clock),
    clock,
    metrics,
    tracing,
    random: () => 0.5,
  });
  const [first, ...rest] = providers.map(({ name }) => ({ provider: name, model: 'm' }));
  if (first === undefined) throw new Error('no provider');
  const deadlines = { firstTokenMs: 60_000, idleMs: 30_000, totalMs: 600_000 };
  const completeRoute: ModelRoute = {
    name: 'r',
    label: 'r',
    targets: [first, ...rest],
    deadlines,
    onMidStreamFailure: 'error',
    continuePrompt: 'Continue.',
    ...route,
  };
  return {
    clock,
    metric: (name) => metricValue(app, name),
    async generate(prompt = { messages: [{ role: 'user', content: 'q' }] }, signal = new AbortController().signal) {
      const outcome = { text: '', called: [] as string[] } as Awaited<ReturnType<SetUp['generate']>>;
      let hasEnded = false;
      client.generate(
        completeRoute,
        prompt,
        {
          onTarget: ({ provider }) => outcome.called.push(provider),
          onFirstPart() {},
          onPart(part) {
            if (part.type === 'text') outcome.text += part.text;
            if (part.type === 'finish') {
              outcome.finish = part;
              hasEnded = true;
            }
            return undefined;
          },
          onFault(reason) {
            outcome.fault = reason;
            hasEnded = true;
          },
        },
        signal,
      );
      for (let i = 0; i < 20 && !hasEnded; i++) {
        for (let j = 0; j < 5; j++) await turn();
        if (!hasEnded && !signal.aborted) clock.advance(250);
      }
      return outcome;
    },
  };
}

t.test('a failed target is retried once, after a delay with jitter', async (t) => {
  const a = fake('a', [[SERVER_ERROR], ANSWER]);
  const { generate, clock, metric } = await setUp(t, [a]);
  const { text, called } = await generate();
  t.equal(text, 'whole');
  t.same(called, ['a', 'a']);
  t.equal(clock.now(), 250, 'half of 500 ms for a random number of 0.5');
  t.equal(await metric('sluice_retries_total'), 1);
});

t.test('a target that fails twice is followed by the next target', async (t) => {
  const a = fake('a', [[SERVER_ERROR]]);
  const b = fake('b', [ANSWER]);
  const { generate, metric } = await setUp(t, [a, b]);
  const { text, called, finish } = await generate();
  t.equal(text, 'whole');
  t.same(called, ['a', 'a', 'b']);
  t.same([await metric('sluice_retries_total'), await metric('sluice_fallbacks_total')], [1, 1]);
  t.notHas(finish, { targets: [] }, 'the finish part names no targets if only one has answered');
});

t.test('a retry waits for Retry-After of at most ten seconds', async (t) => {
  const slow = fault('upstream_rate_limited', { retryAfterMs: 4_000 });
  const { generate, clock } = await setUp(t, [fake('a', [[slow], ANSWER])]);
  t.equal((await generate()).text, 'whole');
  t.equal(clock.now(), 4_250, 'Retry-After plus jitter');

  const later = fault('upstream_rate_limited', { retryAfterMs: 10_001 });
  const b = await setUp(t, [fake('a', [[later], ANSWER]), fake('b', [ANSWER])]);
  t.same((await b.generate()).called, ['a', 'b'], 'a longer Retry-After leads to the next target');
});

t.test(
  'an error that a retry cannot fix leads to the next target, an error of the prompt ends the generation',
  async (t) => {
    const cases: [ProviderError, string[]][] = [
      [fault('upstream_rejected', { retryable: false, reason: 'credentials', upstreamStatus: 401 }), ['a', 'b']],
      [fault('upstream_rejected', { retryable: false, upstreamStatus: 404 }), ['a', 'b']],
      [fault('upstream_rejected', { retryable: false, upstreamStatus: 400 }), ['a']],
      [fault('upstream_timeout', { stage: 'first_token' }), ['a', 'b']],
      [fault('upstream_timeout', { stage: 'connect' }), ['a', 'a', 'b']],
    ];
    for (const [error, order] of cases) {
      const { generate } = await setUp(t, [fake('a', [[error]]), fake('b', [ANSWER])]);
      t.same((await generate()).called, order, `${error.message} ${error.upstreamStatus ?? ''}`);
    }
  },
);

t.test('totalMs covers all attempts and delays', async (t) => {
  const slow = fault('upstream_rate_limited', { retryAfterMs: 9_000 });
  const deadlines = { firstTokenMs: 60_000, idleMs: 30_000, totalMs: 5_000 };
  const { generate, clock } = await setUp(t, [fake('a', [[slow]])], { deadlines });
  t.equal((await generate()).fault, slow, 'no retry whose delay exceeds totalMs');
  const hanging = await setUp(t, [fake('a', [[SERVER_ERROR], ['silence']])], {
    deadlines: { ...deadlines, totalMs: 1_000 },
  });
  t.match((await hanging.generate()).fault, { code: 'upstream_timeout', stage: 'total' });
  t.equal(hanging.clock.now(), 1_000);
  t.equal(clock.pending + hanging.clock.pending, 0, 'no timer is pending');
});

t.test('an abort ends the delay before a retry', async (t) => {
  const { generate, clock } = await setUp(t, [
    fake('a', [[fault('upstream_failed', { retryAfterMs: 9_000 })], ANSWER]),
  ]);
  const controller = new AbortController();
  const generation = generate(undefined, controller.signal);
  for (let i = 0; i < 10; i++) await turn();
  controller.abort();
  t.match((await generation).fault, { name: 'AbortError' });
  t.equal(clock.pending, 0);
});

t.test('the retry budget allows ten retries, plus one for ten generations', async (t) => {
  const a = fake('a', [[fault('upstream_rejected', { retryable: true, upstreamStatus: 409 })]]);
  const { generate, metric, clock } = await setUp(t, [a]);
  for (let i = 0; i < 40; i++) await generate();
  const retries = await metric('sluice_retries_total');
  t.ok(retries >= 11 && retries <= 10 + 40 * 0.1 + (clock.now() / 1000) * 0.1, `${retries} retries of 40`);
  t.equal(a.requests.length, 40 + retries);
  t.equal(await metric('sluice_retries_denied_total'), 40 - retries);
});

t.test('after the first content no target is called again', async (t) => {
  const a = fake('a', [[textPart('partial '), SERVER_ERROR]]);
  const b = fake('b', [ANSWER]);
  const { generate } = await setUp(t, [a, b]);
  const { text, fault: reported } = await generate();
  t.equal(text, 'partial ');
  t.equal(reported, SERVER_ERROR);
  t.equal(b.requests.length, 0, 'the second target is not called');
});

t.test('onMidStreamFailure: continue lets the next target continue the text', async (t) => {
  const route = { onMidStreamFailure: 'continue' as const, continuePrompt: 'Weiter.' };
  const a = fake('a', [[textPart('one '), textPart('two '), SERVER_ERROR]]);
  const demo = fake('demo', [ANSWER], false);
  const b = fake('b', [[SERVER_ERROR], [textPart('three'), FINISH]]);
  const { generate, metric } = await setUp(t, [a, demo, b], route);
  const { text, called, finish } = await generate();
  t.equal(text, 'one two three', 'the text is continued');
  t.same(called, ['a', 'b', 'b'], 'a target without supportsContinuation is skipped, a failed one is retried');
  t.same(b.requests[1]?.messages.slice(1), [
    { role: 'assistant', content: 'one two ' },
    { role: 'user', content: 'Weiter.' },
  ]);
  t.match(finish, { targets: ['a/m', 'b/m'] });
  t.equal(await metric('sluice_continuations_total'), 1);

  const tool: StreamPart = { type: 'tool_call', index: 0, name: 'f', arguments: '{}' };
  const withToolCall = await setUp(t, [fake('a', [[textPart('x'), tool, SERVER_ERROR]]), fake('b', [ANSWER])], route);
  t.equal((await withToolCall.generate()).fault, SERVER_ERROR, 'an answer with tool calls is not continued');
  const single = await setUp(t, [fake('a', [[textPart('x'), SERVER_ERROR]])], route);
  t.equal((await single.generate()).fault, SERVER_ERROR, 'an answer of the only target is not continued');
});

t.test('a breaker opens after five failures in a row, then one probe closes or reopens it', async (t) => {
  const clock = manualClock();
  const states: string[] = [];
  const breaker = new Breaker(clock, (state) => states.push(state));
  const call = () => {
    const admission = breaker.admit();
    if (admission === undefined) throw new Error('the breaker did not admit the call');
    return admission;
  };
  for (let i = 0; i < 4; i++) breaker.failed(call());
  breaker.succeeded(call());
  for (let i = 0; i < 4; i++) breaker.failed(call());
  t.ok(breaker.admit(), 'a success resets the count');
  const earlier = [call(), call(), call()];
  breaker.failed(call());
  t.equal(breaker.admit(), undefined);
  t.equal(breaker.state, 'open');
  breaker.failed(earlier[0] as never);
  t.equal(breaker.retryInMs, 5_000, 'the failure of an earlier call does not extend the open state');
  clock.advance(5_000);
  t.equal(breaker.state, 'half_open');
  const probe = call();
  t.equal(breaker.admit(), undefined, 'a second probe is not admitted');
  breaker.released(earlier[1] as never);
  t.equal(breaker.admit(), undefined, 'the end of an earlier call does not admit a second probe');
  breaker.succeeded(earlier[2] as never);
  t.equal(breaker.state, 'half_open', 'the success of an earlier call does not close the breaker');
  breaker.released(probe);
  const second = call();
  breaker.failed(second);
  t.equal(breaker.retryInMs, 10_000, 'the open time doubles');
  clock.advance(10_000);
  breaker.succeeded(call());
  t.equal(breaker.state, 'closed');
  t.same(states, ['open', 'half_open', 'half_open', 'open', 'half_open', 'closed']);
});

t.test('a target whose keys are all in cooldown is skipped without cost to the retry budget', async (t) => {
  const a: FakeProvider = {
    ...fake('a', [ANSWER]),
    cooldown: () => fault('upstream_rejected', { reason: 'credentials' }),
  };
  const b = fake('b', [ANSWER]);
  const { generate, metric } = await setUp(t, [a, b]);
  for (let i = 0; i < 30; i++) t.same((await generate()).called, ['b']);
  t.equal((await metric('sluice_retries_denied_total')) + (await metric('sluice_fallbacks_total')), 0);
  const single = await setUp(t, [a]);
  t.match((await single.generate()).fault, { reason: 'credentials' });
});

t.test('a fallback after an immediate rejection does not use the retry budget', async (t) => {
  const notFound = fault('upstream_rejected', { retryable: false, upstreamStatus: 404 });
  const { generate, metric } = await setUp(t, [fake('a', [[notFound]]), fake('b', [ANSWER])]);
  for (let i = 0; i < 40; i++) t.equal((await generate()).text, 'whole');
  t.equal(await metric('sluice_retries_denied_total'), 0);
});

t.test('an answer with only reasoning starts over on the next target that supports continuation', async (t) => {
  const route = { onMidStreamFailure: 'continue' as const };
  const reasoning: StreamPart = { type: 'reasoning', text: 'hm' };
  const b = fake('b', [[SERVER_ERROR]]);
  const demo = fake('demo', [ANSWER], false);
  const c = fake('c', [ANSWER]);
  const { generate } = await setUp(t, [fake('a', [[reasoning, SERVER_ERROR]]), b, demo, c], route);
  const { called, text } = await generate();
  t.equal(text, 'whole');
  t.same(called, ['a', 'b', 'b', 'c'], 'the target without supportsContinuation is skipped');
  t.equal(c.requests[0]?.messages.length, 1, 'no empty assistant message is sent');
});

t.test('a target whose breaker is open is skipped without cost to the retry budget', async (t) => {
  const a = fake('a', [[SERVER_ERROR]]);
  const b = fake('b', [ANSWER]);
  const { generate, metric } = await setUp(t, [a, b]);
  for (let i = 0; i < 30; i++) t.equal((await generate()).text, 'whole');
  t.ok(a.requests.length <= 6, `${a.requests.length} calls of the failing target`);
  t.equal(await metric('sluice_retries_denied_total'), 0);

  const single = await setUp(t, [fake('a', [[SERVER_ERROR]])]);
  for (let i = 0; i < 5; i++) await single.generate();
  t.match((await single.generate()).fault, { code: 'upstream_failed', reason: 'circuit_open', retryable: true });
});

t.test('a provider at maxConcurrent is skipped', async (t) => {
  const a = fake('a', [['silence']]);
  const b = fake('b', [ANSWER]);
  const { generate } = await setUp(t, [a, b], {}, 1);
  const controller = new AbortController();
  const first = generate(undefined, controller.signal);
  await turn();
  t.same((await generate()).called, ['b']);
  controller.abort();
  await first;
  t.same((await generate(undefined, AbortSignal.abort())).called, ['a'], 'the slot is free again after an abort');
  const full = await setUp(t, [fake('a', [['silence']])], {}, 0);
  t.match((await full.generate()).fault, { code: 'upstream_rate_limited', reason: 'saturated' });
});

t.test('calls use the key with the fewest calls, and rejected keys go into cooldown', async (t) => {
  let now = 0;
  const cooldowns: [string, boolean][] = [];
  const keys = createApiKeys(['x', 'y', 'z'], {
    now: () => now,
    onCooldown: (reason, first) => cooldowns.push([reason, first]),
  });
  const use = () => {
    const keyUse = keys.use('m');
    if (keyUse === undefined) throw new Error('no key');
    return keyUse;
  };
  const [first, second, third] = [use(), use(), use()];
  t.same([first.key, second.key, third.key], ['x', 'y', 'z'], 'each key is used once');
  second.release();
  t.equal(use().key, 'y', 'the key with the fewest calls');

  const limited = fault('upstream_rate_limited', { retryAfterMs: 3_000 });
  t.match(first.failed(limited), { retryAfterMs: 0 }, 'another key can be used immediately');
  first.release();
  const rejected = fault('upstream_rejected', { reason: 'credentials', retryable: false });
  third.failed(rejected);
  third.release();
  t.equal(use().key, 'y', 'the limited and the rejected key are in cooldown');
  now = 3_000;
  t.equal(use().key, 'x', 'the cooldown of a limited key ends after Retry-After');
  now = 5_000;
  const again = use();
  t.equal(again.key, 'z', 'the first cooldown of a rejected key ends after five seconds');
  again.failed(rejected);
  again.release();
  now = 14_999;
  t.not(use().key, 'z', 'the second cooldown is twice as long');
  now = 15_000;
  t.equal(use().key, 'z');
  t.same(cooldowns, [
    ['rate_limited', true],
    ['credentials', true],
    ['credentials', false],
  ]);

  const many = createApiKeys(['x', 'y'], { now: () => now });
  const concurrent = [many.use('m'), many.use('m'), many.use('m'), many.use('m')];
  for (const keyUse of concurrent) if (keyUse?.key === 'x') keyUse.failed(rejected);
  now += 5_000;
  t.same([many.use('m')?.key, many.use('m')?.key].sort(), ['x', 'y'], 'concurrent rejections of a key count as one');
  concurrent[0]?.failed(fault('upstream_rate_limited', { retryAfterMs: 1_763_850_000_000 }));
  now += 300_000;
  t.equal(many.cooldown('m'), undefined, 'a cooldown has an upper limit');
  const withoutCredit = createApiKeys(['x', 'y'], { now: () => now });
  withoutCredit
    .use('m')
    ?.failed(fault('upstream_rejected', { reason: 'billing', retryable: false, upstreamStatus: 402 }));
  t.same(
    [withoutCredit.use('m')?.key, withoutCredit.use('m')?.key],
    ['y', 'y'],
    'a key without credit goes into cooldown',
  );
  const forbidden = createApiKeys(['x'], { now: () => now });
  forbidden
    .use('m')
    ?.failed(fault('upstream_rejected', { reason: 'credentials', retryable: false, upstreamStatus: 403 }));
  t.equal(forbidden.cooldown('m'), undefined, 'a 403 starts no cooldown, since the prompt may be the cause');

  const single = createApiKeys(['x'], { now: () => now });
  single.use('m')?.failed(rejected);
  t.throws(
    () => single.use('m'),
    { code: 'upstream_rejected', reason: 'credentials' },
    'no call is made while the only key is in cooldown',
  );
  t.equal(createApiKeys([], { now: () => now }).use('m'), undefined);
});
