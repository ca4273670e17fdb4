import t, { type Test } from 'tap';
import { emptyBudget, setUp, type TestClient } from './client.ts';
import {
  abortDuringCall,
  CONTINUE,
  type Ending,
  FAILURES,
  FIRST_TARGETS,
  generateOnce,
  HEALTHY,
  NEUTRAL,
  PERMANENT,
} from './endings.ts';
import { ANSWER, type CallScript, type FakeProvider, fake, fault, SERVER_ERROR, textPart } from './fake-provider.ts';

/** Tests that targets are skipped while their breaker is open, and that every end of a probe lets the next one start. */

const OPEN_MS = 5_000;

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
  const brokenOff: [string, CallScript, Ending?][] = [['an error behind the first part', [textPart('x'), PERMANENT]]];
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
  const four: CallScript[] = Array(4).fill([PERMANENT]);
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
