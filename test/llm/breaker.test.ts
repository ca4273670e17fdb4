import t, { type Test } from 'tap';
import { type Admission, Breaker } from '../../plugins/llm/breaker.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';

/** Tests when a breaker opens, for how long, and what closes it. */

function createBreaker() {
  const clock = manualClock();
  const states: string[] = [];
  const breaker = new Breaker(clock, (state) => states.push(state));
  const call = (): Admission => {
    const admission = breaker.admit();
    if (admission === undefined) throw new Error('the breaker did not admit the call');
    return admission;
  };
  const fail = (times: number) => {
    for (let i = 0; i < times; i++) breaker.failed(call());
  };
  return { clock, states, breaker, call, fail };
}

/** Asserts that the breaker is open for exactly `ms`. */
function openFor(t: Test, breaker: Breaker, clock: ManualClock, ms: number, message: string): void {
  t.equal(breaker.retryInMs, ms, message);
  clock.advance(ms - 1);
  t.equal(breaker.state, 'open', `${message}: open one millisecond before`);
  t.equal(breaker.admit(), undefined, `${message}: admits no call while it is open`);
  t.equal(breaker.retryInMs, 1);
  clock.advance(1);
  t.equal(breaker.state, 'half_open', `${message}: half open after it`);
  t.equal(breaker.retryInMs, 0);
}

t.test('the fifth failure in a row opens the breaker for five seconds', async (t) => {
  const { breaker, clock, fail, states } = createBreaker();
  t.equal(breaker.state, 'closed');
  t.equal(breaker.retryInMs, 0);
  fail(4);
  t.equal(breaker.state, 'closed', 'closed after four failures');
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
  fail(4);
  t.equal(breaker.state, 'closed', 'the earlier failures do not count');
  t.same(states, [], 'no change of state is reported');
  fail(1);
  t.equal(breaker.state, 'open');
});

t.test('a call that ended without a failure of the target does not count', async (t) => {
  const { breaker, call, fail } = createBreaker();
  fail(4);
  breaker.released(call());
  breaker.released(call());
  t.equal(breaker.state, 'closed', 'is no failure');
  fail(1);
  t.equal(breaker.state, 'open', 'is no success either');
});

t.test('the open time doubles with each failed probe, up to one minute', async (t) => {
  const { breaker, clock, fail } = createBreaker();
  fail(5);
  for (const ms of [5_000, 10_000, 20_000, 40_000, 60_000, 60_000, 60_000]) {
    openFor(t, breaker, clock, ms, `opening of ${ms} ms`);
    fail(1);
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
  t.equal(breaker.retryInMs, 0);
  t.same(states, ['open', 'half_open', 'open', 'half_open', 'closed']);
  t.ok(breaker.admit() && breaker.admit(), 'admits calls at the same time');
  fail(4);
  t.equal(breaker.state, 'closed', 'counts from zero');
  fail(1);
  openFor(t, breaker, clock, 5_000, 'next opening');
});

t.test('a half-open breaker admits one probe at a time', async (t) => {
  const { breaker, clock, call, fail, states } = createBreaker();
  fail(5);
  clock.advance(7_000);
  const probe = call();
  t.equal(breaker.state, 'half_open');
  t.equal(breaker.retryInMs, 0);
  t.equal(breaker.admit(), undefined, 'no second probe');
  clock.advance(600_000);
  t.equal(breaker.admit(), undefined, 'no second probe, however long the first one takes');
  breaker.released(probe);
  const second = call();
  t.equal(breaker.admit(), undefined, 'the release admits one probe');
  breaker.released(second);
  t.ok(breaker.admit());
  t.same(states, ['open', 'half_open', 'half_open', 'half_open']);
});

t.test('results of calls that began before a change of state are ignored', async (t) => {
  const { breaker, clock, call, fail } = createBreaker();
  const [failing, released, succeeding, late] = [call(), call(), call(), call()];
  fail(5);
  clock.advance(1_000);
  breaker.failed(failing);
  t.equal(breaker.retryInMs, 4_000, 'a failure does not extend the open time');
  clock.advance(4_000);
  const probe = call();
  breaker.released(released);
  t.equal(breaker.admit(), undefined, 'the end of an earlier call does not admit a second probe');
  breaker.succeeded(succeeding);
  t.equal(breaker.state, 'half_open', 'an earlier success does not close the breaker');
  breaker.failed(late);
  t.equal(breaker.state, 'half_open', 'an earlier failure does not reopen the breaker');
  breaker.failed(probe);
  t.equal(breaker.retryInMs, 10_000, 'the probe decides');
});
