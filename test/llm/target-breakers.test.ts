import t, { type Test } from 'tap';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import type { StreamPart } from '../../providers/types.ts';
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

/** Tests that targets are skipped while their breaker is open, and that no end of a probe keeps the next one out. */

const OPEN_MS = 5_000;

/** Opens the breaker of the last target and waits until it is half open. */
function halfOpen({ targets, route, clock }: TestClient): void {
  const last = route.targets.length - 1;
  const slots = Array.from({ length: 5 }, () => targets.reserve(route, { from: last }));
  for (const slot of slots) slot?.release(true);
  clock.advance(OPEN_MS);
}

/** Asserts that the last target admits one probe a second, and not two. */
function assertOneProbe(t: Test, { targets, route, clock }: TestClient, name: string): void {
  const last = route.targets.length - 1;
  const probe = targets.reserve(route, { from: last });
  t.ok(probe, `${name}: the next call is a probe`);
  t.equal(targets.reserve(route, { from: last }), undefined, `${name}: no second probe at the same time`);
  clock.advance(1_000);
  t.ok(targets.isFree(route, { from: last }), `${name}: the next probe a second later, also while the first one runs`);
  probe?.release(false);
}

t.test('a probe that ends without a result keeps the next one out for no longer than a second', async (t) => {
  for (const [name, script, ending = generateOnce] of NEUTRAL) {
    const client = setUp([fake('a', [script])]);
    halfOpen(client);
    await ending(client);
    t.match(client.targets.states(), [{ provider: 'a', model: 'm', state: 'half_open' }], name);
    client.clock.advance(1_000);
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
    const slots = [client.targets.reserve(client.route), client.targets.reserve(client.route)];
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
    t.equal(client.targets.reserve(client.route), undefined, `${name}: open for ten seconds`);
    client.clock.advance(1);
    assertOneProbe(t, client, name);
  }
});

t.test('a probe of a fallback or a continuation is like any other', async (t) => {
  for (const [kind, first] of Object.entries(FIRST_TARGETS)) {
    for (const [name, script] of NEUTRAL) {
      if (script.includes('silence') || name.includes('before')) continue;
      const client = setUp([fake('a', [first]), fake('b', [script])], { route: CONTINUE });
      halfOpen(client);
      t.same((await client.generate()).called, ['a', 'b']);
      client.clock.advance(1_000);
      assertOneProbe(t, client, `${kind}, ${name}`);
    }
    const stopped = setUp([fake('a', [first]), fake('b', [['silence']])], { route: CONTINUE });
    halfOpen(stopped);
    await abortDuringCall(stopped);
    stopped.clock.advance(1_000);
    assertOneProbe(t, stopped, `${kind}, aborted`);
  }
});

t.test('a target that was rate limited as a probe answers a question a second later', async (t) => {
  const client = setUp([fake('a', [[fault('upstream_rate_limited', { retryAfterMs: 60_000 })], ANSWER])]);
  halfOpen(client);
  t.match((await client.generate()).fault, { code: 'upstream_rate_limited' });
  t.match((await client.generate()).fault, { reason: 'circuit_open', retryAfterMs: 1_000 });
  client.clock.advance(1_000);
  t.equal((await client.generate()).text, 'whole');
});

t.test(
  'five failures of a target skip it without cost to the retry budget, another model is not affected',
  async (t) => {
    const a = fake('a', [[SERVER_ERROR]]);
    const client = setUp([a, fake('b', [ANSWER])]);
    for (let i = 0; i < 5; i++) t.same((await client.generate()).called, ['a', 'b']);
    emptyBudget(client.budget);
    t.same((await client.generate()).called, ['b'], 'skipped');
    t.equal(await client.metric('sluice_retries_denied_total'), 0);
    t.equal(await client.metric('sluice_breaker_state', { provider: 'a', model: 'm' }), 2);
    t.match(client.targets.states(), [{ provider: 'a', model: 'm', state: 'open' }]);
    const other = { ...client.route, targets: [{ provider: 'a', model: 'other' }] as const };
    t.ok(client.targets.reserve(other), 'another model of the provider');
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
  const slots = Array.from({ length: 5 }, () => targets.reserve(route));
  for (const slot of slots.slice(0, 4)) slot?.release(true);
  t.equal(slots[4]?.canRetry(), true, 'the target may be retried');
  slots[4]?.release(true);
  t.match(targets.states(), [{ state: 'open' }]);
  t.equal(slots[4]?.canRetry(), false, 'a target whose breaker is open is not retried');
});

t.test('an earlier call that succeeds forgets the failures of a closed breaker only', async (t) => {
  const { targets, route, clock } = setUp([fake('a', [ANSWER])]);
  const early = targets.reserve(route);
  for (let i = 0; i < 4; i++) targets.reserve(route)?.release(true);
  early?.succeeded();
  t.same(targets.states(), [], 'of a closed breaker');
  const late = targets.reserve(route);
  for (let i = 0; i < 5; i++) targets.reserve(route)?.release(true);
  late?.succeeded();
  t.match(targets.states(), [{ state: 'open' }], 'not of an open breaker');
  clock.advance(OPEN_MS);
  late?.release(false);
  t.ok(targets.reserve(route));
  t.equal(targets.reserve(route), undefined);
});

t.test('if no target can be used, the error names the first time at which one may answer', async (t) => {
  const client = setUp([fake('a', [ANSWER]), fake('b', [ANSWER])]);
  const { targets, clock, route } = client;
  const open = (index: number) => {
    const slots = Array.from({ length: 5 }, () => targets.reserve(route, { from: index }));
    for (const slot of slots) slot?.release(true);
  };
  open(1);
  clock.advance(1_500);
  open(0);
  t.match((await client.generate()).fault, { reason: 'circuit_open', retryAfterMs: 3_500 }, 'of the one that is next');
  clock.advance(3_000);
  t.match((await client.generate()).fault, { reason: 'circuit_open', retryAfterMs: 1_000 }, 'at least one second');
});

t.test('if no target can be used, an error that passes by itself comes before one that does not', async (t) => {
  const refused = fault('upstream_rejected', { reason: 'credentials', retryable: false });
  const limited = fault('upstream_rate_limited', { retryAfterMs: 3_000 });
  const inCooldown = (name: string, error: Error): FakeProvider => ({ ...fake(name, [ANSWER]), cooldown: () => error });
  const dead = inCooldown('a', refused);
  t.equal((await setUp([dead, inCooldown('b', limited)]).generate()).fault, limited);
  t.equal((await setUp([dead, inCooldown('b', refused)]).generate()).fault, refused);
  const client = setUp([dead, fake('b', [ANSWER])]);
  const slots = Array.from({ length: 5 }, () => client.targets.reserve(client.route));
  for (const slot of slots) slot?.release(true);
  t.match((await client.generate()).fault, { reason: 'circuit_open', retryAfterMs: 5_000 });
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
  t.throws(() => targets.reserve(wrong), { message: 'route wrong names an unknown provider' });
});

t.test('models that clients name share one breaker for each provider, without their names', async (t) => {
  const client = setUp([fake('a', [[PERMANENT]])]);
  const { targets, route } = client;
  const named = (model: string, provider = 'a') =>
    ({ ...route, name: `${provider}/${model}`, label: `${provider}/*`, targets: [{ provider, model }] }) as ModelRoute;
  for (let i = 0; i < 5; i++) targets.reserve(named(`secret${i}`), { owner: `o${i}` })?.release(true);
  t.same(targets.states(), [{ provider: 'a', model: '*', state: 'open' }]);
  t.equal(targets.isFree(named('other')), false, 'an outage of the provider');
  t.ok(targets.isFree(route), 'a configured target of the provider has a breaker of its own');
  const text = await client.metricsText();
  t.match(text, /^sluice_breaker_state\{provider="a",model="\*"\} 2$/m);
  t.notMatch(text, /secret/);
});

t.test('five failing questions of one owner leave the target open for others', async (t) => {
  const a: FakeProvider = {
    ...fake('a', []),
    async *stream({ messages }) {
      if (messages[0]?.content === 'bad') throw PERMANENT;
      yield* ANSWER as StreamPart[];
    },
  };
  const bad = { messages: [{ role: 'user', content: 'bad' } as const] };
  const client = setUp([a]);
  for (let i = 0; i < 20; i++) await client.generate({ owner: 'mallory', prompt: bad });
  t.match((await client.generate({ owner: 'mallory', prompt: bad })).fault, { reason: 'circuit_open' });
  t.equal((await client.generate({ owner: 'alice' })).text, 'whole');
  t.same(client.targets.states(), [], 'the answer says that the target works');

  const outage = setUp([fake('a', [[PERMANENT]])]);
  for (const owner of ['alice', 'bob', 'carol', 'alice', 'bob']) {
    t.match((await outage.generate({ owner })).fault, PERMANENT);
  }
  t.match((await outage.generate({ owner: 'dave' })).fault, { reason: 'circuit_open', retryAfterMs: 5_000 });
});

t.test('targets that are no longer configured are forgotten, also if a call of one still runs', async (t) => {
  const client = setUp([fake('a', [ANSWER]), fake('b', [ANSWER])]);
  const { targets, route } = client;
  for (const from of [0, 1]) {
    const slots = Array.from({ length: 5 }, () => targets.reserve(route, { from }));
    for (const slot of slots) slot?.release(true);
  }
  const late = targets.reserve({ ...route, targets: [{ provider: 'a', model: 'late' }] });
  targets.retain([{ ...route, targets: [{ provider: 'b', model: 'm' }] }]);
  t.same(targets.states(), [{ provider: 'b', model: 'm', state: 'open' }], 'the state of a target that stays is kept');
  for (let i = 0; i < 5; i++) late?.release(true);
  t.same(targets.states().length, 1);
  t.same((await client.metricsText()).match(/^sluice_breaker_state\{.*$/gm), [
    'sluice_breaker_state{provider="b",model="m"} 2',
  ]);
});
