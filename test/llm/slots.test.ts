import t, { type Test } from 'tap';
import { settle, setUp, type TestClient } from './client.ts';
import {
  abortDuringCall,
  CONTINUE,
  FAILURES,
  FIRST_TARGETS,
  generateOnce,
  HEALTHY,
  NEUTRAL,
  PERMANENT,
} from './endings.ts';
import { ANSWER, type CallScript, type FakeProvider, fake, SERVER_ERROR, textPart } from './fake-provider.ts';

/** Tests that every end of a call returns its place under `maxConcurrent`, exactly once. */

/** A provider whose first call plays `script`, and whose later calls remain silent. */
const holding = (name: string, script: CallScript) => fake(name, [script, ['silence']]);

/** Asserts that the last target has exactly one free place. */
async function assertOnePlace(t: Test, { start, route, targets }: TestClient, name: string): Promise<void> {
  const last = route.targets.at(-1)?.provider;
  const slot = targets.reserve(route, { from: route.targets.length - 1 });
  t.ok(slot, `${name}: the place is free`);
  t.equal(targets.reserve(route, { from: route.targets.length - 1 }), undefined, `${name}: a second place is not`);
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
      throw PERMANENT;
    },
  };
  const client = setUp([throwing], { maxConcurrent: 1 });
  await client.generate();
  const slot = client.targets.reserve(client.route);
  t.ok(slot, 'a provider that throws when it is called: the place is free');
  t.equal(client.targets.reserve(client.route), undefined, 'a provider that throws: a second place is not');
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

t.test('the place of the next target is returned by every end', async (t) => {
  for (const [kind, first] of Object.entries(FIRST_TARGETS)) {
    for (const [name, script] of [...NEUTRAL, ...HEALTHY, ...FAILURES]) {
      if (script.includes('silence') || name.includes('before')) continue;
      const client = setUp([fake('a', [first]), holding('b', script)], { maxConcurrent: 1, route: CONTINUE });
      t.same((await client.generate()).called, ['a', 'b']);
      await assertOnePlaceAtLast(t, client, `${kind}, ${name}`);
    }
    const stopped = setUp([fake('a', [first]), fake('b', [['silence']])], { maxConcurrent: 1, route: CONTINUE });
    await abortDuringCall(stopped);
    await assertOnePlaceAtLast(t, stopped, `${kind}, aborted`);
  }
});

async function assertOnePlaceAtLast(t: Test, { targets, route }: TestClient, name: string): Promise<void> {
  for (let index = 0; index < route.targets.length; index++) {
    const only = { ...route, targets: [route.targets[index]] as never };
    const slot = targets.reserve(only);
    t.ok(slot, `${name}: the place of target ${index} is free`);
    t.equal(targets.reserve(only), undefined, `${name}: target ${index} has no second place`);
    slot?.release(false);
  }
}
