import t from 'tap';
import { assertReleased, attempt } from './attempt.ts';
import { settle } from './client.ts';
import { ANSWER, FINISH, textPart } from './fake-provider.ts';

/** Tests the deadlines of one call, also while the reader of the answer is slow. */

function gate(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}

t.test('the first part has firstTokenMs, later ones have idleMs each', async (t) => {
  const slow = await attempt([999, textPart('x'), 299, textPart('y'), 299, textPart('z'), 299, FINISH]);
  await slow.advance(999);
  for (let i = 0; i < 3; i++) await slow.advance(299);
  t.same(slow.faults, [], 'each part arrives one millisecond before its deadline');
  t.equal(slow.parts.length, 4);

  const late = await attempt([1_001, ...ANSWER]);
  await late.advance(999);
  t.same(late.faults, []);
  await late.advance(1);
  t.match(late.faults, [{ stage: 'first_token' }]);

  const idle = await attempt([100, textPart('x'), 250, textPart('y'), 301, FINISH]);
  await idle.advance(100);
  await idle.advance(250);
  await idle.advance(299);
  t.same(idle.faults, [], 'silence is measured from the last part');
  await idle.advance(1);
  t.match(idle.faults, [{ stage: 'idle' }]);
});

t.test('idleMs may be longer than firstTokenMs', async (t) => {
  const deadlines = { firstTokenMs: 100, idleMs: 5_000, thinkingMs: 9_000, totalMs: 60_000 };
  const running = await attempt([99, textPart('x'), 4_999, FINISH], { deadlines });
  await running.advance(99);
  await running.advance(4_999);
  t.same(running.faults, []);
  t.equal(running.parts.length, 2);
});

t.test('time in which the sink holds a part back does not count as silence', async (t) => {
  for (const heldBack of ['x', 'y']) {
    const { promise, resolve } = gate();
    const running = await attempt([textPart('x'), textPart('y'), 100, textPart('z'), 'silence'], {
      onPart: (part) => (part.type === 'text' && part.text === heldBack ? promise : undefined),
    });
    const delivered = running.parts.length;
    await running.advance(5_000, 100);
    t.same(running.faults, [], `${heldBack}: no deadline passes while the sink is full`);
    t.equal(running.parts.length, delivered, `${heldBack}: nothing is read`);
    resolve();
    await settle();
    await running.advance(100);
    t.equal(running.parts.length, 3);
    await running.advance(299);
    t.same(running.faults, []);
    await running.advance(1);
    t.match(running.faults, [{ stage: 'idle' }], `${heldBack}: the clock runs again afterwards`);
  }
});

t.test('the total deadline and an abort end a call whose sink is full', async (t) => {
  const full = { onPart: () => new Promise<void>(() => {}) };
  const late = await attempt([textPart('x'), 'silence'], full);
  await late.advance(10_000, 100);
  t.match(late.faults, [{ stage: 'total' }]);
  assertReleased(t, late, 'total');
  const aborted = await attempt([textPart('x'), 'silence'], full);
  aborted.controller.abort();
  await settle();
  t.match(aborted.faults, [{ name: 'AbortError' }]);
  assertReleased(t, aborted, 'abort');
});

t.test('a part is requested only when the sink has taken the one before', async (t) => {
  const { promise, resolve } = gate();
  const running = await attempt(ANSWER, { onPart: () => promise });
  t.equal(running.parts.length, 1);
  resolve();
  await settle();
  t.same(running.parts, ANSWER);
});

t.test('many parts use one timer for silence and one for the whole answer', async (t) => {
  const running = await attempt([...Array(50).fill(textPart('x')), 'silence']);
  t.equal(running.clock.pending, 2);
  running.controller.abort();
  t.equal(running.clock.pending, 0);
});

t.test('thinking is a sign of life until thinkingMs, pings are not', async (t) => {
  const deadlines = { firstTokenMs: 60_000, idleMs: 30_000, thinkingMs: 300_000, totalMs: 600_000 };
  const long = await attempt([{ type: 'thinking' }, 90_000, ...ANSWER], { deadlines });
  await long.advance(90_000, 10_000);
  t.same(long.faults, [], 'ninety seconds of thinking, then the answer');
  t.equal(long.parts.at(-1)?.type, 'finish');
  t.notOk(
    long.parts.some(({ type }) => type === 'thinking'),
    'the report itself is no part of the answer',
  );

  const silent = await attempt([90_000, ...ANSWER], { deadlines });
  await silent.advance(60_000);
  t.match(silent.faults, [{ stage: 'first_token' }], 'without a report, the deadline of the first token applies');
});

t.test('each report of thinking counts from the first one since the last content', async (t) => {
  const steps = [textPart('x'), { type: 'thinking' }, 4_000, { type: 'thinking' }, 'silence'] as const;
  const running = await attempt(steps);
  await running.advance(4_000);
  t.same(running.faults, []);
  await running.advance(999);
  t.same(running.faults, [], 'one millisecond before thinkingMs');
  await running.advance(1);
  t.match(running.faults, [{ stage: 'idle' }], 'repeated reports do not extend it');
  assertReleased(t, running, 'after thinkingMs');

  const first = await attempt([{ type: 'thinking' }, 'silence']);
  await first.advance(4_999);
  t.same(first.faults, []);
  await first.advance(1);
  t.match(first.faults, [{ stage: 'first_token' }], 'nothing was delivered');
});

t.test('after content, the deadline of silence applies again, and later thinking has the whole time', async (t) => {
  const running = await attempt([{ type: 'thinking' }, 4_000, textPart('x'), 'silence']);
  await running.advance(4_000);
  await running.advance(299);
  t.same(running.faults, []);
  await running.advance(1);
  t.match(running.faults, [{ stage: 'idle' }]);

  const again = await attempt([{ type: 'thinking' }, 4_000, textPart('x'), { type: 'thinking' }, 4_000, FINISH]);
  await again.advance(4_000);
  await again.advance(4_000);
  t.same(again.faults, []);
  t.equal(again.parts.at(-1)?.type, 'finish');
  assertReleased(t, again, 'at the end');
});

t.test('thinking in the middle of an answer ends with the next content', async (t) => {
  const running = await attempt([textPart('x'), { type: 'thinking' }, 4_000, textPart('y'), 'silence']);
  await running.advance(4_000);
  await running.advance(299);
  t.same(running.faults, []);
  await running.advance(1);
  t.match(running.faults, [{ stage: 'idle' }]);
});
