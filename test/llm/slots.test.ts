import t, { type Test } from 'tap';
import { emptyBudget, settle, setUp, type TestClient } from './client.ts';
import {
  ANSWER,
  type CallScript,
  type FakeProvider,
  FINISH,
  fake,
  fault,
  NOT_FOUND,
  SERVER_ERROR,
  textPart,
} from './fake-provider.ts';

/**
 * Tests that every end of a call returns what the call had reserved, exactly once: its place under `maxConcurrent`,
 * and the probe of a half-open breaker.
 */

const OPEN_MS = 5_000;

/** Runs one generation whose call of the last target ends in a certain way. */
type Ending = (client: TestClient) => Promise<void>;

const rejected = (upstreamStatus: number, init: object = {}) =>
  fault('upstream_rejected', { retryable: false, upstreamStatus, ...init });
const permanent = fault('upstream_failed', { retryable: false });

const generateOnce: Ending = async ({ generate }) => void (await generate());
const abortDuringCall: Ending = async ({ start }) => {
  const running = await start();
  running.abort();
  await settle();
};
const abortBeforeCall: Ending = async ({ generate }) => void (await generate({ signal: AbortSignal.abort() }));

const abortWithProviderError: Ending = async ({ start }) => {
  const controller = new AbortController();
  await start({ signal: controller.signal });
  controller.abort(SERVER_ERROR);
  await settle();
};

/** Ways in which a call ends that say nothing about the health of the target before its first part. */
const NEUTRAL: [string, CallScript, Ending?][] = [
  ['a rate limit', [fault('upstream_rate_limited', { retryable: false })]],
  ['a rate limit with a long Retry-After', [fault('upstream_rate_limited', { retryAfterMs: 60_000 })]],
  ['an invalid question', [rejected(400)]],
  ['a question that is too large', [rejected(413)]],
  ['a refused key', [rejected(401, { reason: 'credentials' })]],
  ['an account without credit', [rejected(402, { reason: 'billing' })]],
  ['a missing model', [NOT_FOUND]],
  ['an error in the stream that does not pass', [fault('upstream_error', { retryable: false })]],
  ['the total deadline', [fault('upstream_timeout', { stage: 'total', retryable: true })]],
  ['an error of this service', [new Error('bug')]],
  ['an abort during the call', ['silence'], abortDuringCall],
  ['an abort whose reason is an error of a provider', ['silence'], abortWithProviderError],
  ['an abort before the call', ANSWER, abortBeforeCall],
];

/** Ways in which a call ends that say that the target works. */
const HEALTHY: [string, CallScript, Ending?][] = [
  ['an answer', ANSWER],
  ['an empty answer', [FINISH]],
  ['an abort behind the first part', [textPart('x'), 'silence'], abortDuringCall],
];

/** Ways in which a call ends that count against the target. */
const FAILURES: [string, CallScript, Ending?][] = [
  ['a server error', [permanent]],
  ['an unreachable server', [fault('upstream_unreachable', { retryable: false })]],
  ['no first part in time', [fault('upstream_timeout', { stage: 'first_token' })]],
  ['an invalid response', [fault('upstream_protocol', { retryable: false })]],
  ['an incomplete answer', [fault('upstream_truncated', { retryable: false })]],
  ['an error in the stream that may pass', [fault('upstream_error', { retryable: true, retryAfterMs: 60_000 })]],
];

/** A provider whose first call plays `script`, and whose later calls remain silent. */
const holding = (name: string, script: CallScript) => fake(name, [script, ['silence']]);

/** Asserts that the last target has exactly one free place. */
async function assertOnePlace(t: Test, { start, route, targets }: TestClient, name: string): Promise<void> {
  const last = route.targets.at(-1)?.provider;
  const slot = targets.reserve(route, route.targets.length - 1);
  t.ok(slot, `${name}: the place is free`);
  t.equal(targets.reserve(route, route.targets.length - 1), undefined, `${name}: a second place is not`);
  slot?.release(false);
  const running = await start();
  t.equal(running.outcome.called.at(-1), last, `${name}: a call gets the place`);
  running.abort();
}

t.test('every end of a call returns its place under maxConcurrent, once', async (t) => {
  for (const [name, script, ending = generateOnce] of [...NEUTRAL, ...HEALTHY, ...FAILURES]) {
    const client = setUp([holding('a', script)], { maxConcurrent: 1 });
    await ending(client);
    await assertOnePlace(t, client, name);
  }
  const throwing: FakeProvider = {
    ...fake('a', []),
    stream() {
      throw permanent;
    },
  };
  const client = setUp([throwing], { maxConcurrent: 1 });
  await client.generate();
  const slot = client.targets.reserve(client.route, 0);
  t.ok(slot, 'a provider that throws when it is called: the place is free');
  t.equal(client.targets.reserve(client.route, 0), undefined, 'a provider that throws: a second place is not');
});

t.test('a place is taken for as long as the call runs', async (t) => {
  const client = setUp([fake('a', [[textPart('x'), 'silence']])], { maxConcurrent: 2 });
  const [first, second] = [await client.start(), await client.start()];
  t.equal(client.targets.hasCapacity(client.route), false);
  t.match((await client.generate()).fault, {
    code: 'upstream_rate_limited',
    reason: 'saturated',
    retryable: true,
    retryAfterMs: 1_000,
  });
  first.abort();
  t.equal(client.targets.hasCapacity(client.route), true, 'an abort frees one');
  const third = await client.start();
  t.same(third.outcome.called, ['a']);
  t.equal(client.targets.hasCapacity(client.route), false, 'and only one');
  second.abort();
  third.abort();
});

t.test('a full provider is skipped, and the providers are counted separately', async (t) => {
  const a = fake('a', [['silence']]);
  const client = setUp([a, fake('b', [ANSWER])], { maxConcurrent: 1 });
  const held = await client.start();
  t.same((await client.generate()).called, ['b']);
  t.equal(client.targets.hasCapacity(client.route), true, 'one provider has capacity');
  held.abort();
  t.equal((await client.start()).outcome.called[0], 'a');

  const limits: Record<string, number> = { a: 0, b: 1 };
  const closed = setUp([a, fake('b', [ANSWER])], { maxConcurrent: (name) => limits[name] ?? 0 });
  t.same((await closed.generate()).called, ['b']);
  limits.b = 0;
  t.match((await closed.generate()).fault, { reason: 'saturated' });
});

t.test('the place is free during the wait before a retry, and taken once by the retry', async (t) => {
  const client = setUp([fake('a', [[SERVER_ERROR], ['silence']])], { maxConcurrent: 1 });
  const running = await client.start();
  t.equal(client.targets.hasCapacity(client.route), true, 'free during the wait');
  client.clock.advance(250);
  await settle();
  t.same(running.outcome.called, ['a', 'a']);
  t.equal(client.targets.hasCapacity(client.route), false, 'taken by the retry');
  running.abort();
  await assertOnePlace(t, client, 'abort of the retry');

  const waiting = setUp([fake('a', [[SERVER_ERROR], ['silence']])], { maxConcurrent: 1 });
  const aborted = await waiting.start();
  aborted.abort();
  waiting.clock.advance(1_000);
  await assertOnePlace(t, waiting, 'abort during the wait');

  const overtaken = setUp([fake('a', [[SERVER_ERROR], ['silence']])], { maxConcurrent: 1 });
  const first = await overtaken.start();
  const second = await overtaken.start();
  overtaken.clock.advance(250);
  t.equal(first.outcome.fault, SERVER_ERROR, 'the retry finds the place taken by another question');
  second.abort();
  await assertOnePlace(t, overtaken, 'a retry without a place');
});

/** Ways in which the first target of two ends; its failure leads to the second one. */
const FIRST_TARGETS: Record<string, CallScript> = {
  'a fallback': [permanent],
  'a continuation': [textPart('x'), permanent],
};
const CONTINUE = { onMidStreamFailure: 'continue' as const };

t.test('the place of the next target is returned by every end, also if the retry budget denies the call', async (t) => {
  for (const [kind, first] of Object.entries(FIRST_TARGETS)) {
    for (const [name, script] of [...NEUTRAL, ...HEALTHY, ...FAILURES]) {
      if (script.includes('silence') || name.includes('before')) continue;
      const client = setUp([fake('a', [first]), holding('b', script)], { maxConcurrent: 1, route: CONTINUE });
      t.same((await client.generate()).called, ['a', 'b']);
      await assertOnePlaceAtLast(t, client, `${kind}, ${name}`);
    }
    const denied = setUp([fake('a', [first]), holding('b', ANSWER)], { maxConcurrent: 1, route: CONTINUE });
    emptyBudget(denied.budget);
    t.same((await denied.generate()).called, ['a'], `${kind} is denied`);
    await assertOnePlaceAtLast(t, denied, `${kind}, denied`);
    const stopped = setUp([fake('a', [first]), fake('b', [['silence']])], { maxConcurrent: 1, route: CONTINUE });
    await abortDuringCall(stopped);
    await assertOnePlaceAtLast(t, stopped, `${kind}, aborted`);
  }
});

async function assertOnePlaceAtLast(t: Test, { targets, route }: TestClient, name: string): Promise<void> {
  for (let index = 0; index < route.targets.length; index++) {
    const only = { ...route, targets: [route.targets[index]] as never };
    const slot = targets.reserve(only, 0);
    t.ok(slot, `${name}: the place of target ${index} is free`);
    t.equal(targets.reserve(only, 0), undefined, `${name}: target ${index} has no second place`);
    slot?.release(false);
  }
}

/** Opens the breaker of the last target and waits until it is half open. */
function halfOpen({ targets, route, clock }: TestClient): void {
  const last = route.targets.length - 1;
  const slots = Array.from({ length: 5 }, () => targets.reserve(route, last));
  for (const slot of slots) slot?.release(true);
  clock.advance(OPEN_MS);
}

/** Asserts that the last target admits one probe, and not two. */
function assertOneProbe(t: Test, { targets, route }: TestClient, name: string): void {
  const last = route.targets.length - 1;
  const probe = targets.reserve(route, last);
  t.ok(probe, `${name}: the next call is a probe`);
  t.equal(targets.reserve(route, last), undefined, `${name}: no second probe at the same time`);
  probe?.release(false);
}

t.test('a probe that ends without a result lets the next call be the probe', async (t) => {
  for (const [name, script, ending = generateOnce] of NEUTRAL) {
    const client = setUp([fake('a', [script])]);
    halfOpen(client);
    await ending(client);
    t.match(client.targets.states(), [{ provider: 'a', model: 'm', state: 'half_open' }], name);
    assertOneProbe(t, client, name);
  }
});

t.test('a probe that delivers a part closes the breaker, however it ends', async (t) => {
  const brokenOff: [string, CallScript, Ending?][] = [['an error behind the first part', [textPart('x'), permanent]]];
  for (const [name, script, ending = generateOnce] of [...HEALTHY, ...brokenOff]) {
    const client = setUp([fake('a', [script])]);
    halfOpen(client);
    t.equal(await client.metric('sluice_breaker_state', { provider: 'a', model: 'm' }), 2, `${name}: open before`);
    await ending(client);
    t.notMatch(client.targets.states(), [{ state: 'half_open' }], `${name}: not half open`);
    const slots = [client.targets.reserve(client.route, 0), client.targets.reserve(client.route, 0)];
    t.ok(slots[0] && slots[1], `${name}: calls are admitted at the same time`);
    t.notMatch(await client.metricsText(), /^sluice_breaker_state\{/m, `${name}: the series is removed`);
  }
});

t.test('a probe that fails opens the breaker for twice as long', async (t) => {
  for (const [name, script, ending = generateOnce] of FAILURES) {
    const client = setUp([fake('a', [script])]);
    halfOpen(client);
    const failedAt = client.clock.now();
    await ending(client);
    t.equal(client.clock.now(), failedAt, `${name}: a failed probe is not retried`);
    t.match(
      (await client.generate()).fault,
      { code: 'upstream_failed', reason: 'circuit_open', retryable: true, retryAfterMs: 10_000 },
      `${name}: calls are refused`,
    );
    client.clock.advance(9_999);
    t.equal(client.targets.reserve(client.route, 0), undefined, `${name}: open for ten seconds`);
    client.clock.advance(1);
    assertOneProbe(t, client, name);
  }
});

t.test('a probe that the retry budget denies is free for the next question', async (t) => {
  for (const [kind, first] of Object.entries(FIRST_TARGETS)) {
    const b = fake('b', [ANSWER]);
    const client = setUp([fake('a', [first]), b], { route: CONTINUE });
    halfOpen(client);
    emptyBudget(client.budget);
    t.same((await client.generate()).called, ['a'], kind);
    t.equal(b.requests.length, 0);
    assertOneProbe(t, client, kind);
  }
});

t.test('a probe of a fallback or a continuation is released like any other', async (t) => {
  for (const [kind, first] of Object.entries(FIRST_TARGETS)) {
    for (const [name, script] of NEUTRAL) {
      if (script.includes('silence') || name.includes('before')) continue;
      const client = setUp([fake('a', [first]), fake('b', [script])], { route: CONTINUE });
      halfOpen(client);
      t.same((await client.generate()).called, ['a', 'b']);
      assertOneProbe(t, client, `${kind}, ${name}`);
    }
    const stopped = setUp([fake('a', [first]), fake('b', [['silence']])], { route: CONTINUE });
    halfOpen(stopped);
    await abortDuringCall(stopped);
    assertOneProbe(t, stopped, `${kind}, aborted`);
  }
});

t.test('a target that was rate limited as a probe answers the next question', async (t) => {
  const client = setUp([fake('a', [[fault('upstream_rate_limited', { retryAfterMs: 60_000 })], ANSWER])]);
  halfOpen(client);
  t.match((await client.generate()).fault, { code: 'upstream_rate_limited' });
  t.equal((await client.generate()).text, 'whole');
});

t.test(
  'five failures of a target skip it without cost to the retry budget, another model is not affected',
  async (t) => {
    const a = fake('a', [[SERVER_ERROR]]);
    const client = setUp([a, fake('b', [ANSWER])]);
    for (let i = 0; i < 2; i++) t.same((await client.generate()).called, ['a', 'a', 'b']);
    t.same((await client.generate()).called, ['a', 'b'], 'the fifth failure is not retried: the breaker is open');
    emptyBudget(client.budget);
    t.same((await client.generate()).called, ['b'], 'skipped');
    t.equal(await client.metric('sluice_retries_denied_total'), 0);
    t.equal(await client.metric('sluice_breaker_state', { provider: 'a', model: 'm' }), 2);
    t.match(client.targets.states(), [{ provider: 'a', model: 'm', state: 'open' }]);
    const other = { ...client.route, targets: [{ provider: 'a', model: 'other' }] as const };
    t.ok(client.targets.reserve(other, 0), 'another model of the provider');
  },
);

t.test('failures do not count before the fifth, and a success forgets them', async (t) => {
  const four: CallScript[] = Array(4).fill([permanent]);
  const a = fake('a', [...four, ANSWER, ...four, ANSWER]);
  const client = setUp([a]);
  for (let i = 0; i < 4; i++) await client.generate();
  t.match(client.targets.states(), [{ provider: 'a', state: 'closed' }], 'four failures');
  t.equal((await client.generate()).text, 'whole');
  t.same(client.targets.states(), [], 'a target without failures is not listed');
  for (let i = 0; i < 4; i++) await client.generate();
  t.equal((await client.generate()).text, 'whole', 'four failures after a success');
});

t.test('calls that began before the first failure count as soon as they fail', async (t) => {
  const { targets, route } = setUp([fake('a', [ANSWER])]);
  const slots = Array.from({ length: 5 }, () => targets.reserve(route, 0));
  for (const slot of slots.slice(0, 4)) slot?.release(true);
  t.equal(slots[4]?.canRetry(), true, 'the target may be retried');
  slots[4]?.release(true);
  t.match(targets.states(), [{ state: 'open' }]);
  t.equal(slots[4]?.canRetry(), false, 'a target whose breaker is open is not retried');
});

t.test('an earlier call that succeeds forgets the failures of a closed breaker only', async (t) => {
  const { targets, route, clock } = setUp([fake('a', [ANSWER])]);
  const early = targets.reserve(route, 0);
  for (let i = 0; i < 4; i++) targets.reserve(route, 0)?.release(true);
  early?.succeeded();
  t.same(targets.states(), [], 'of a closed breaker');
  const late = targets.reserve(route, 0);
  for (let i = 0; i < 5; i++) targets.reserve(route, 0)?.release(true);
  late?.succeeded();
  t.match(targets.states(), [{ state: 'open' }], 'not of an open breaker');
  clock.advance(OPEN_MS);
  late?.release(false);
  t.ok(targets.reserve(route, 0));
  t.equal(targets.reserve(route, 0), undefined);
});

t.test('if no target can be used, the error names the first time at which one may answer', async (t) => {
  const client = setUp([fake('a', [ANSWER]), fake('b', [ANSWER])]);
  const { targets, clock, route } = client;
  const open = (index: number) => {
    const slots = Array.from({ length: 5 }, () => targets.reserve(route, index));
    for (const slot of slots) slot?.release(true);
  };
  open(1);
  clock.advance(1_500);
  open(0);
  t.match((await client.generate()).fault, { reason: 'circuit_open', retryAfterMs: 3_500 }, 'of the one that is next');
  clock.advance(3_000);
  t.match((await client.generate()).fault, { reason: 'circuit_open', retryAfterMs: 1_000 }, 'at least one second');
});

t.test('a route is saturated only if all its targets are full', async (t) => {
  const cooldown = fault('upstream_rate_limited', { reason: 'keys_in_cooldown' });
  const b: FakeProvider = { ...fake('b', [ANSWER]), cooldown: () => cooldown };
  const client = setUp([fake('a', [['silence']]), b], { maxConcurrent: 1 });
  const held = await client.start();
  t.equal((await client.generate()).fault, cooldown, 'the error of the target that is not full');
  held.abort();
});

t.test('the state of a half-open breaker is a metric', async (t) => {
  const client = setUp([fake('a', [['silence']])]);
  halfOpen(client);
  const running = await client.start();
  t.equal(await client.metric('sluice_breaker_state', { provider: 'a', model: 'm' }), 1);
  running.abort();
});

t.test('a route to an unknown provider is an error of this service', async (t) => {
  const { targets, route } = setUp([fake('a', [ANSWER])]);
  const wrong = { ...route, name: 'wrong', targets: [{ provider: 'nobody', model: 'm' }] as const };
  t.throws(() => targets.reserve(wrong, 0), { message: 'route wrong names an unknown provider' });
});

t.test('stored breakers are bounded: clients choose the model names of open providers', async (t) => {
  const { targets, route } = setUp([fake('a', [ANSWER])]);
  const routeOf = (model: string) => ({ ...route, targets: [{ provider: 'a', model }] as const });
  for (let i = 0; i < 10_001; i++) targets.reserve(routeOf(`m${i}`), 0)?.release(true);
  t.equal(targets.states().length, 10_000);
  for (let i = 0; i < 4; i++) targets.reserve(routeOf('m0'), 0)?.release(true);
  t.match(targets.states()[0], { model: 'm0', state: 'open' }, 'stored breakers still work');
});
