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

/** Who is asked, again, next, or not at all: on a clock turned by hand, with providers that do as told. */

const fault = (code: ProviderErrorCode, init: Partial<ProviderErrorInit> = {}) =>
  new ProviderError(code, { reason: 'r', retryable: true, ...init });
const BROKEN = fault('upstream_failed');
const say = (text: string): StreamPart => ({ type: 'text', text });
const FINISH: StreamPart = { type: 'finish', reason: 'stop' };
const ANSWER = [say('whole'), FINISH];

/** What a call gives: parts, and then a fault, or nothing more. */
type Call = readonly (StreamPart | ProviderError | 'silence')[];

interface Fake extends Provider {
  readonly asked: ChatRequest[];
}

function fake(name: string, calls: Call[], supportsContinuation = true): Fake {
  const asked: ChatRequest[] = [];
  return {
    name,
    supportsContinuation,
    asked,
    async *stream(request, signal) {
      const steps = calls[asked.length] ?? calls.at(-1) ?? [];
      asked.push(request);
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
  /** Asks, turns the clock by `ms` until it is over, and says how it went. */
  ask(
    prompt?: Prompt,
    signal?: AbortSignal,
  ): Promise<{ text: string; finish?: StreamPart; fault?: unknown; asked: string[] }>;
  metric(name: 'retries' | 'fallbacks' | 'continuations' | 'retriesDenied'): Promise<number>;
}

async function setUp(
  t: Test,
  providers: Fake[],
  route: Partial<ModelRoute> = {},
  most = Number.POSITIVE_INFINITY,
): Promise<SetUp> {
  const { metrics, tracing } = await build(t);
  const clock = manualClock();
  const targets = createTargets({
    providers: new Map(providers.map((one) => [one.name, one])),
    maxConcurrent: () => most,
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
  const full: ModelRoute = {
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
    async metric(name) {
      return (await metrics[name].get()).values.reduce((sum, { value }) => sum + value, 0);
    },
    async ask(prompt = { messages: [{ role: 'user', content: 'q' }] }, signal = new AbortController().signal) {
      const outcome = { text: '', asked: [] as string[] } as Awaited<ReturnType<SetUp['ask']>>;
      let over = false;
      client.generate(
        full,
        prompt,
        {
          onTarget: ({ provider }) => outcome.asked.push(provider),
          onFirstPart() {},
          onPart(part) {
            if (part.type === 'text') outcome.text += part.text;
            if (part.type === 'finish') {
              outcome.finish = part;
              over = true;
            }
            return undefined;
          },
          onFault(reason) {
            outcome.fault = reason;
            over = true;
          },
        },
        signal,
      );
      for (let i = 0; i < 20 && !over; i++) {
        for (let j = 0; j < 5; j++) await turn();
        if (!over && !signal.aborted) clock.advance(250);
      }
      return outcome;
    },
  };
}

t.test('a target that fails is asked once more, after a pause with jitter', async (t) => {
  const a = fake('a', [[BROKEN], ANSWER]);
  const { ask, clock, metric } = await setUp(t, [a]);
  const { text, asked } = await ask();
  t.equal(text, 'whole');
  t.same(asked, ['a', 'a']);
  t.equal(clock.now(), 250, 'half of half a second, as its dice say');
  t.equal(await metric('retries'), 1);
});

t.test('then the next one, and what is no content does not commit', async (t) => {
  const a = fake('a', [[BROKEN]]);
  const b = fake('b', [ANSWER]);
  const { ask, metric } = await setUp(t, [a, b]);
  const { text, asked, finish } = await ask();
  t.equal(text, 'whole');
  t.same(asked, ['a', 'a', 'b']);
  t.same([await metric('retries'), await metric('fallbacks')], [1, 1]);
  t.notHas(finish, { targets: [] }, 'who answered was one');
});

t.test('what a delay says is honoured up to ten seconds', async (t) => {
  const slow = fault('upstream_rate_limited', { retryAfterMs: 4_000 });
  const { ask, clock } = await setUp(t, [fake('a', [[slow], ANSWER])]);
  t.equal((await ask()).text, 'whole');
  t.equal(clock.now(), 4_250, 'and a little longer, so that not all come at once');

  const later = fault('upstream_rate_limited', { retryAfterMs: 10_001 });
  const b = await setUp(t, [fake('a', [[later], ANSWER]), fake('b', [ANSWER])]);
  t.same((await b.ask()).asked, ['a', 'b'], 'and no longer');
});

t.test('what nothing mends is not repeated; what blames the question goes nowhere', async (t) => {
  const cases: [ProviderError, string[]][] = [
    [fault('upstream_rejected', { retryable: false, reason: 'credentials', upstreamStatus: 401 }), ['a', 'b']],
    [fault('upstream_rejected', { retryable: false, upstreamStatus: 404 }), ['a', 'b']],
    [fault('upstream_rejected', { retryable: false, upstreamStatus: 400 }), ['a']],
    [fault('upstream_timeout', { stage: 'first_token' }), ['a', 'b']],
    [fault('upstream_timeout', { stage: 'connect' }), ['a', 'a', 'b']],
  ];
  for (const [what, order] of cases) {
    const { ask } = await setUp(t, [fake('a', [[what]]), fake('b', [ANSWER])]);
    t.same((await ask()).asked, order, `${what.message} ${what.upstreamStatus ?? ''}`);
  }
});

t.test('one total deadline over all', async (t) => {
  const slow = fault('upstream_rate_limited', { retryAfterMs: 9_000 });
  const deadlines = { firstTokenMs: 60_000, idleMs: 30_000, totalMs: 5_000 };
  const { ask, clock } = await setUp(t, [fake('a', [[slow]])], { deadlines });
  t.equal((await ask()).fault, slow, 'no pause goes past it');
  const hanging = await setUp(t, [fake('a', [[BROKEN], ['silence']])], { deadlines: { ...deadlines, totalMs: 1_000 } });
  t.match((await hanging.ask()).fault, { code: 'upstream_timeout', stage: 'total' });
  t.equal(hanging.clock.now(), 1_000);
  t.equal(clock.pending + hanging.clock.pending, 0, 'no timer is left');
});

t.test('a reader that leaves during a pause ends it', async (t) => {
  const { ask, clock } = await setUp(t, [fake('a', [[fault('upstream_failed', { retryAfterMs: 9_000 })], ANSWER])]);
  const controller = new AbortController();
  const asking = ask(undefined, controller.signal);
  for (let i = 0; i < 10; i++) await turn();
  controller.abort();
  t.match((await asking).fault, { name: 'AbortError' });
  t.equal(clock.pending, 0);
});

t.test('retries are a tenth of the traffic, and ten to begin with', async (t) => {
  const a = fake('a', [[fault('upstream_rejected', { retryable: true, upstreamStatus: 409 })]]);
  const { ask, metric, clock } = await setUp(t, [a]);
  for (let i = 0; i < 40; i++) await ask();
  const retries = await metric('retries');
  t.ok(retries >= 11 && retries <= 10 + 40 * 0.1 + (clock.now() / 1000) * 0.1, `${retries} retries of 40`);
  t.equal(a.asked.length, 40 + retries);
  t.equal(await metric('retriesDenied'), 40 - retries);
});

t.test('after the first content nothing is asked again', async (t) => {
  const a = fake('a', [[say('partial '), BROKEN]]);
  const b = fake('b', [ANSWER]);
  const { ask } = await setUp(t, [a, b]);
  const { text, fault: got } = await ask();
  t.equal(text, 'partial ');
  t.equal(got, BROKEN);
  t.equal(b.asked.length, 0);
});

t.test('unless the route wants the next one to go on', async (t) => {
  const route = { onMidStreamFailure: 'continue' as const, continuePrompt: 'Weiter.' };
  const a = fake('a', [[say('one '), say('two '), BROKEN]]);
  const demo = fake('demo', [ANSWER], false);
  const b = fake('b', [[BROKEN], [say('three'), FINISH]]);
  const { ask, metric } = await setUp(t, [a, demo, b], route);
  const { text, asked, finish } = await ask();
  t.equal(text, 'one two three', 'only what is new is added');
  t.same(asked, ['a', 'b', 'b'], 'one that can, and as often as any');
  t.same(b.asked[1]?.messages.slice(1), [
    { role: 'assistant', content: 'one two ' },
    { role: 'user', content: 'Weiter.' },
  ]);
  t.match(finish, { targets: ['a/m', 'b/m'] });
  t.equal(await metric('continuations'), 1);

  const tool: StreamPart = { type: 'tool_call', index: 0, name: 'f', arguments: '{}' };
  const calling = await setUp(t, [fake('a', [[say('x'), tool, BROKEN]]), fake('b', [ANSWER])], route);
  t.equal((await calling.ask()).fault, BROKEN, 'never where tools were called');
  const last = await setUp(t, [fake('a', [[say('x'), BROKEN]])], route);
  t.equal((await last.ask()).fault, BROKEN, 'nor where there is no other');
});

t.test('a breaker opens after five failures in a row, and one probe decides', async (t) => {
  const clock = manualClock();
  const states: string[] = [];
  const breaker = new Breaker(clock, (state) => states.push(state));
  const call = () => {
    const admission = breaker.admit();
    if (admission === undefined) throw new Error('not let through');
    return admission;
  };
  for (let i = 0; i < 4; i++) breaker.failed(call());
  breaker.succeeded(call());
  for (let i = 0; i < 4; i++) breaker.failed(call());
  t.ok(breaker.admit(), 'in a row');
  const old = [call(), call(), call()];
  breaker.failed(call());
  t.equal(breaker.admit(), undefined);
  t.equal(breaker.state, 'open');
  breaker.failed(old[0] as never);
  t.equal(breaker.retryInMs, 5_000, 'a call from before it opened is no failed probe');
  clock.advance(5_000);
  t.equal(breaker.state, 'half_open');
  const probe = call();
  t.equal(breaker.admit(), undefined, 'one probe, and no second');
  breaker.released(old[1] as never);
  t.equal(breaker.admit(), undefined, 'whatever ends meanwhile');
  breaker.succeeded(old[2] as never);
  t.equal(breaker.state, 'half_open', 'an old call does not close it');
  breaker.released(probe);
  const second = call();
  breaker.failed(second);
  t.equal(breaker.retryInMs, 10_000, 'twice as long');
  clock.advance(10_000);
  breaker.succeeded(call());
  t.equal(breaker.state, 'closed');
  t.same(states, ['open', 'half_open', 'half_open', 'open', 'half_open', 'closed']);
});

t.test('a target whose keys all rest is passed over, which costs nothing', async (t) => {
  const a: Fake = { ...fake('a', [ANSWER]), cooldown: () => fault('upstream_rejected', { reason: 'credentials' }) };
  const b = fake('b', [ANSWER]);
  const { ask, metric } = await setUp(t, [a, b]);
  for (let i = 0; i < 30; i++) t.same((await ask()).asked, ['b']);
  t.equal((await metric('retriesDenied')) + (await metric('fallbacks')), 0);
  const alone = await setUp(t, [a]);
  t.match((await alone.ask()).fault, { reason: 'credentials' });
});

t.test('who refuses at once is left without paying for it', async (t) => {
  const gone = fault('upstream_rejected', { retryable: false, upstreamStatus: 404 });
  const { ask, metric } = await setUp(t, [fake('a', [[gone]]), fake('b', [ANSWER])]);
  for (let i = 0; i < 40; i++) t.equal((await ask()).text, 'whole');
  t.equal(await metric('retriesDenied'), 0);
});

t.test('an answer that was only thought of begins anew', async (t) => {
  const route = { onMidStreamFailure: 'continue' as const };
  const thought: StreamPart = { type: 'reasoning', text: 'hm' };
  const b = fake('b', [[BROKEN]]);
  const demo = fake('demo', [ANSWER], false);
  const c = fake('c', [ANSWER]);
  const { ask } = await setUp(t, [fake('a', [[thought, BROKEN]]), b, demo, c], route);
  const { asked, text } = await ask();
  t.equal(text, 'whole');
  t.same(asked, ['a', 'b', 'b', 'c'], 'by one that could go on');
  t.equal(c.asked[0]?.messages.length, 1, 'without an empty answer');
});

t.test('a target whose breaker is open is passed over, which costs no budget', async (t) => {
  const a = fake('a', [[BROKEN]]);
  const b = fake('b', [ANSWER]);
  const { ask, metric } = await setUp(t, [a, b]);
  for (let i = 0; i < 30; i++) t.equal((await ask()).text, 'whole');
  t.ok(a.asked.length <= 6, `${a.asked.length} calls of the broken one`);
  t.equal(await metric('retriesDenied'), 0);

  const alone = await setUp(t, [fake('a', [[BROKEN]])]);
  for (let i = 0; i < 5; i++) await alone.ask();
  t.match((await alone.ask()).fault, { code: 'upstream_failed', reason: 'circuit_open', retryable: true });
});

t.test('a provider that is full is passed over, too', async (t) => {
  const a = fake('a', [['silence']]);
  const b = fake('b', [ANSWER]);
  const { ask } = await setUp(t, [a, b], {}, 1);
  const controller = new AbortController();
  const first = ask(undefined, controller.signal);
  await turn();
  t.same((await ask()).asked, ['b']);
  controller.abort();
  await first;
  t.same((await ask(undefined, AbortSignal.abort())).asked, ['a'], 'its place is free again');
  const full = await setUp(t, [fake('a', [['silence']])], {}, 0);
  t.match((await full.ask()).fault, { code: 'upstream_rate_limited', reason: 'saturated' });
});

t.test('keys: the one with the fewest calls, and those that were refused rest', async (t) => {
  let now = 0;
  const rested: [string, boolean][] = [];
  const keys = createApiKeys(['x', 'y', 'z'], {
    now: () => now,
    onCooldown: (why, first) => rested.push([why, first]),
  });
  const take = () => {
    const lease = keys.use();
    if (lease === undefined) throw new Error('no key');
    return lease;
  };
  const [one, two, three] = [take(), take(), take()];
  t.same([one.key, two.key, three.key], ['x', 'y', 'z'], 'evenly');
  two.release();
  t.equal(take().key, 'y', 'the least loaded');

  const limited = fault('upstream_rate_limited', { retryAfterMs: 3_000 });
  t.match(one.failed(limited), { retryAfterMs: 0 }, 'another may be asked at once');
  one.release();
  const refused = fault('upstream_rejected', { reason: 'credentials', retryable: false });
  three.failed(refused);
  three.release();
  t.equal(take().key, 'y', 'both rest');
  now = 3_000;
  t.equal(take().key, 'x', 'for as long as was said');
  now = 5_000;
  const again = take();
  t.equal(again.key, 'z');
  again.failed(refused);
  again.release();
  now = 14_999;
  t.not(take().key, 'z', 'twice as long the second time');
  now = 15_000;
  t.equal(take().key, 'z');
  t.same(rested, [
    ['rate_limited', true],
    ['credentials', true],
    ['credentials', false],
  ]);

  const many = createApiKeys(['x', 'y'], { now: () => now });
  const flying = [many.use(), many.use(), many.use(), many.use()];
  for (const lease of flying) if (lease?.key === 'x') lease.failed(refused);
  now += 5_000;
  t.same([many.use()?.key, many.use()?.key].sort(), ['x', 'y'], 'what many report together counts once');
  flying[0]?.failed(fault('upstream_rate_limited', { retryAfterMs: 1_763_850_000_000 }));
  now += 300_000;
  t.equal(many.cooldown(), undefined, 'nor does a key rest for ever');
  const broke = createApiKeys(['x', 'y'], { now: () => now });
  broke.use()?.failed(fault('upstream_rejected', { reason: 'billing', retryable: false, upstreamStatus: 402 }));
  t.same([broke.use()?.key, broke.use()?.key], ['y', 'y'], 'one without money rests, too');
  const forbidden = createApiKeys(['x'], { now: () => now });
  forbidden.use()?.failed(fault('upstream_rejected', { reason: 'credentials', retryable: false, upstreamStatus: 403 }));
  t.equal(forbidden.cooldown(), undefined, 'a 403 is as often about the question');

  const single = createApiKeys(['x'], { now: () => now });
  single.use()?.failed(refused);
  t.throws(() => single.use(), { code: 'upstream_rejected', reason: 'credentials' }, 'not asked in vain');
  t.equal(createApiKeys([], { now: () => now }).use(), undefined);
});
