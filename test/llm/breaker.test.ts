import fc from 'fast-check';
import t, { type Test } from 'tap';
import { type Admission, Breaker, type BreakerChange } from '../../plugins/llm/breaker.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';

/** Tests when a breaker opens, for whom, for how long, and what closes it. */

function createBreaker() {
  const clock = manualClock();
  const states: string[] = [];
  const breaker = new Breaker(clock, ({ to }) => states.push(to));
  const call = (owner = 'o'): Admission => {
    const admission = breaker.admit(owner);
    if (admission === undefined) throw new Error('the breaker did not admit the call');
    return admission;
  };
  const fail = (times: number, owner = 'o') => {
    for (let i = 0; i < times; i++) breaker.failed(call(owner));
  };
  return { clock, states, breaker, call, fail };
}

/** Asserts that the breaker is open for exactly `ms`. */
function openFor(t: Test, breaker: Breaker, clock: ManualClock, ms: number, message: string, owner = 'o'): void {
  t.equal(breaker.retryInMs(owner), ms, message);
  clock.advance(ms - 1);
  t.equal(breaker.state, 'open', `${message}: open one millisecond before`);
  t.equal(breaker.admit(owner), undefined, `${message}: admits no call while it is open`);
  t.equal(breaker.retryInMs(owner), 1);
  t.equal(breaker.isClosedFor(owner), false);
  clock.advance(1);
  t.equal(breaker.state, 'half_open', `${message}: half open after it`);
  t.equal(breaker.retryInMs(owner), 0);
}

/** Opens the breaker for everybody: three failures of `a` and two of `b`. */
function openForAll({ fail }: ReturnType<typeof createBreaker>): void {
  fail(3, 'a');
  fail(2, 'b');
}

t.test('the fifth failure in a row opens the breaker for five seconds', async (t) => {
  const { breaker, clock, fail, states } = createBreaker();
  t.equal(breaker.state, 'closed');
  t.equal(breaker.hasFailed, false);
  t.equal(breaker.retryInMs('o'), 0);
  fail(4);
  t.equal(breaker.state, 'closed', 'closed after four failures');
  t.equal(breaker.hasFailed, true);
  t.same(states, []);
  fail(1);
  t.equal(breaker.state, 'open', 'open after five failures');
  t.same(states, ['open']);
  openFor(t, breaker, clock, 5_000, 'first opening');
});

t.test('a success resets the count of failures', async (t) => {
  const { breaker, call, fail, states } = createBreaker();
  fail(4);
  breaker.succeeded(call());
  t.equal(breaker.hasFailed, false);
  fail(4);
  t.equal(breaker.state, 'closed', 'the earlier failures do not count');
  t.same(states, [], 'no change of state is reported');
  fail(1);
  t.equal(breaker.state, 'open');
});

t.test('a call that reports nothing is neither a failure nor a success', async (t) => {
  const { breaker, call, fail } = createBreaker();
  fail(4);
  call();
  call();
  t.equal(breaker.state, 'closed', 'is no failure');
  fail(1);
  t.equal(breaker.state, 'open', 'is no success either');
});

t.test('the open time doubles with each failed probe, up to one minute', async (t) => {
  for (const owners of [['o'], ['a', 'b']]) {
    const test = createBreaker();
    if (owners.length === 1) test.fail(5);
    else openForAll(test);
    for (const ms of [5_000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]) {
      openFor(t, test.breaker, test.clock, ms, `${owners}: opening of ${ms} ms`, owners[0]);
      for (const owner of owners) {
        test.fail(1, owner);
        if (owner !== owners.at(-1)) test.clock.advance(1_000);
      }
    }
  }
});

t.test('a single failed probe reopens the breaker', async (t) => {
  const { breaker, clock, fail, states } = createBreaker();
  fail(5);
  clock.advance(5_000);
  fail(1);
  t.equal(breaker.state, 'open');
  t.same(states, ['open', 'half_open', 'open']);
});

t.test('a successful probe closes the breaker and resets count and open time', async (t) => {
  const { breaker, clock, call, fail, states } = createBreaker();
  fail(5);
  clock.advance(5_000);
  fail(1);
  clock.advance(10_000);
  breaker.succeeded(call());
  t.equal(breaker.state, 'closed');
  t.equal(breaker.retryInMs('o'), 0);
  t.same(states, ['open', 'half_open', 'open', 'half_open', 'closed']);
  t.ok(breaker.admit('o') && breaker.admit('o'), 'admits calls at the same time');
  fail(4);
  t.equal(breaker.state, 'closed', 'counts from zero');
  fail(1);
  openFor(t, breaker, clock, 5_000, 'next opening');
});

t.test('a half-open breaker admits one call a second, whatever became of the earlier ones', async (t) => {
  for (const kind of ['one owner', 'everybody']) {
    const test = createBreaker();
    const { breaker, clock, call, states } = test;
    if (kind === 'everybody') openForAll(test);
    else test.fail(5);
    const owner = kind === 'everybody' ? 'c' : 'o';
    clock.advance(7_000);
    states.length = 0;
    for (let second = 0; second < 90; second++) {
      call(owner);
      t.equal(breaker.admit(owner), undefined, `${kind}: not two at once`);
      t.equal(breaker.retryInMs(owner), 1_000);
      clock.advance(999);
      t.equal(breaker.admit(owner), undefined);
      clock.advance(1);
    }
    t.equal(breaker.state, 'half_open');
    breaker.succeeded(call(owner));
    t.equal(breaker.state, 'closed');
    t.same(new Set(states), new Set(['half_open', 'closed']));
  }
});

t.test('the first result of several probes decides, and the others are ignored', async (t) => {
  const { breaker, clock, call, fail } = createBreaker();
  fail(5);
  clock.advance(5_000);
  const probes: Admission[] = [];
  for (let i = 0; i < 4; i++) {
    probes.push(call());
    clock.advance(1_000);
  }
  breaker.failed(probes[2] as Admission);
  t.equal(breaker.retryInMs('o'), 10_000);
  clock.advance(1_000);
  breaker.failed(probes[0] as Admission);
  t.equal(breaker.retryInMs('o'), 9_000, 'a second failure does not extend the open time');
  breaker.succeeded(probes[3] as Admission);
  t.equal(breaker.state, 'open', 'a late success does not close it');
  clock.advance(9_000);
  const [first, late] = [call(), clock.advance(1_000), call()].filter((value) => value !== undefined) as Admission[];
  breaker.succeeded(first as Admission);
  for (let i = 0; i < 4; i++) breaker.failed(call());
  breaker.failed(late as Admission);
  t.equal(breaker.state, 'closed', 'the failure of a probe behind the success is not the fifth failure');
});

t.test('results of calls that began before a change of state are ignored', async (t) => {
  const { breaker, clock, call, fail } = createBreaker();
  const [failing, succeeding, late] = [call(), call(), call()];
  fail(5);
  clock.advance(1_000);
  breaker.failed(failing);
  t.equal(breaker.retryInMs('o'), 4_000, 'a failure does not extend the open time');
  clock.advance(4_000);
  const probe = call();
  breaker.succeeded(succeeding);
  t.equal(breaker.state, 'half_open', 'an earlier success does not close the breaker');
  breaker.failed(late);
  t.equal(breaker.state, 'half_open', 'an earlier failure does not reopen the breaker');
  breaker.failed(probe);
  t.equal(breaker.retryInMs('o'), 10_000, 'the probe decides');
});

t.test('failures of one owner close the target to no other, however many they are', async (t) => {
  for (const times of [1, 5, 50]) {
    const { breaker, clock, call, states } = createBreaker();
    for (let i = 0; i < times; i++) {
      const admission = breaker.admit('a');
      if (admission) breaker.failed(admission);
      else clock.advance(1_000);
    }
    t.equal(breaker.isClosedFor('b'), true, `${times} failures`);
    for (let i = 0; i < 20; i++) t.ok(breaker.admit('b'), 'any number of calls at once');
    t.equal(breaker.isClosedFor('a'), times < 5, 'the owner itself');
    breaker.failed(call('b'));
    t.ok(breaker.admit('c'), 'one failure of another owner');
    if (times < 5) continue;
    breaker.succeeded(call('b'));
    t.equal(breaker.state, 'closed', 'the success of another owner lifts it');
    t.equal(states.at(-1), 'closed');
    t.ok(breaker.admit('a'));
  }
});

t.test('failures of several owners in a row close the target to everybody', async (t) => {
  const orders: [string, boolean][] = [
    ['abcde', true],
    ['ababa', true],
    ['aabab', true],
    ['aaabb', true],
    ['aabbb', true],
    ['aaaaabb', true],
    ['abbb', false],
    ['abcd', false],
    ['aaaaab', false],
  ];
  for (const [order, isEnough] of orders) {
    const { breaker, fail } = createBreaker();
    for (const owner of order) {
      t.equal(breaker.isClosedFor('z'), true, `${order}: before the last failure`);
      fail(1, owner);
    }
    t.equal(breaker.isClosedFor('z'), !isEnough, order);
    t.equal(breaker.state !== 'closed', isEnough || order.startsWith('aaaaa'), `${order}: state`);
  }
});

t.test('a success in between forgets the failures of all owners', async (t) => {
  const { breaker, call, fail } = createBreaker();
  fail(3, 'a');
  fail(1, 'b');
  breaker.succeeded(call('c'));
  fail(3, 'a');
  fail(1, 'b');
  t.equal(breaker.isClosedFor('z'), true);
  fail(1, 'c');
  t.equal(breaker.isClosedFor('z'), false);
});

t.test('the failed probes of one owner do not keep the others out', async (t) => {
  const test = createBreaker();
  const { breaker, clock, call, fail } = test;
  openForAll(test);
  clock.advance(5_000);
  fail(1, 'a');
  t.equal(breaker.retryInMs('a'), 10_000, 'the owner of the probe waits twice as long');
  t.equal(breaker.retryInMs('c'), 1_000, 'another one only for its turn');
  clock.advance(1_000);
  breaker.succeeded(call('c'));
  t.equal(breaker.state, 'closed');
  t.equal(breaker.isClosedFor('a'), true);
});

t.test('calls of others that began before one owner was kept out still count', async (t) => {
  const { breaker, call, fail } = createBreaker();
  const [first, second] = [call('b'), call('b')];
  fail(5, 'a');
  breaker.failed(first);
  breaker.failed(second);
  t.equal(breaker.isClosedFor('z'), false);
});

t.test('the block of one owner can take the place of that of another one', async (t) => {
  const clock = manualClock();
  const changes: BreakerChange[] = [];
  const breaker = new Breaker(clock, (change) => changes.push(change));
  const fail = (owner: string) => breaker.failed(breaker.admit(owner) as Admission);
  const early = breaker.admit('b') as Admission;
  for (let i = 0; i < 5; i++) fail('a');
  breaker.succeeded(early); // Forgets the failures, but says nothing about the time since.
  for (let i = 0; i < 5; i++) fail('b');
  t.same(changes, [
    { from: 'closed', to: 'open', reason: 'failures', owner: 'a' },
    { from: 'open', to: 'closed', reason: 'replaced', owner: 'a' },
    { from: 'closed', to: 'open', reason: 'failures', owner: 'b' },
  ]);
  t.same([breaker.isClosedFor('a'), breaker.isClosedFor('b')], [true, false]);
});

const OWNERS = ['a', 'b', 'c', 'd'] as const;
const owner = fc.constantFrom(...OWNERS);
const breakerStep = fc.oneof(
  {
    arbitrary: fc.record({ do: fc.constantFrom('fail' as const, 'fail' as const, 'admit' as const), owner }),
    weight: 10,
  },
  { arbitrary: fc.record({ do: fc.constant('succeed' as const), owner }), weight: 1 },
  { arbitrary: fc.record({ do: fc.constant('late' as const), index: fc.nat(9), isFailed: fc.boolean() }), weight: 2 },
  { arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(1_000, 5_000, 20_000) }), weight: 5 },
  { arbitrary: fc.record({ do: fc.constant('remove' as const) }), weight: 1 },
);

t.test('the reported changes of everybody and of each owner follow one another, up to the present state', async (t) => {
  const seen = new Set<string>();
  fc.assert(
    fc.property(fc.array(breakerStep, { minLength: 20, maxLength: 80, size: 'max' }), (steps) => {
      const clock = manualClock();
      const changes: BreakerChange[] = [];
      const breaker = new Breaker(clock, (change) => changes.push(change));
      const open: Admission[] = [];
      for (const step of steps) {
        if (step.do === 'wait') clock.advance(step.ms);
        else if (step.do === 'remove') breaker.remove();
        else if (step.do === 'late') {
          const admission = open[step.index];
          if (admission) breaker[step.isFailed ? 'failed' : 'succeeded'](admission);
        } else {
          const admission = breaker.admit(step.owner);
          if (admission === undefined) continue;
          if (step.do === 'admit') open.push(admission);
          else breaker[step.do === 'fail' ? 'failed' : 'succeeded'](admission);
        }
      }
      const last = new Map<string | undefined, string>();
      for (const { from, to, reason, owner } of changes) {
        const before = last.get(owner) ?? 'closed';
        if (from !== before || from === to) throw new Error(`${owner}: from ${from} to ${to}, but it was ${before}`);
        last.set(owner, to);
        seen.add(`${reason} ${owner === undefined ? 'everybody' : 'owner'}`);
      }
      const isClosed = (scope: string | undefined) => (last.get(scope) ?? 'closed') === 'closed';
      for (const one of OWNERS) {
        if (breaker.isClosedFor(one) !== (isClosed(undefined) && isClosed(one))) throw new Error(`state of ${one}`);
      }
      if (breaker.isClosedFor('nobody') !== isClosed(undefined)) throw new Error('state of everybody');
    }),
    { numRuns: 1_000, endOnFailure: true },
  );
  for (const reason of ['failures', 'probe', 'probe_failed', 'succeeded', 'removed']) {
    for (const scope of ['everybody', 'owner']) t.ok(seen.has(`${reason} ${scope}`), `${reason} of ${scope}`);
  }
  t.ok(seen.has('replaced owner'), 'replaced of owner');
});
