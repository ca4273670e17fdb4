import t from 'tap';
import type { StreamPart } from '../../providers/types.ts';
import { type Attempt, assertReleased, attempt } from './attempt.ts';
import { settle } from './client.ts';
import { ANSWER, FINISH, SERVER_ERROR, textPart } from './fake-provider.ts';

/** Tests that each end of a call is reported once, and releases everything that the call has used. */

t.test('a complete answer is delivered, releases everything and does not abort the upstream', async (t) => {
  // The provider has more to come behind the finish part, such as a body that stays open behind [DONE].
  const running = await attempt([...ANSWER, 'silence']);
  t.same(running.parts, ANSWER);
  t.same(running.faults, []);
  t.equal(running.upstream()?.aborted, false, 'the connection can be used again');
  assertReleased(t, running, 'finish');
  running.controller.abort();
  await running.advance(60_000);
  t.same([running.parts, running.faults], [ANSWER, []], 'nothing follows the finish part');
});

t.test('an answer without content is complete, too', async (t) => {
  const running = await attempt([FINISH]);
  t.same([running.parts, running.faults], [[FINISH], []]);
  assertReleased(t, running, 'finish');
});

t.test('each failure is reported once, aborts the upstream and releases everything', async (t) => {
  const sinkError = new Error('sink');
  const failing = (thrown: () => Promise<void> | undefined) => ({
    onPart: (part: StreamPart) => (part.type === 'text' ? thrown() : undefined),
  });
  const cases: [string, () => Promise<Attempt>, object][] = [
    ['an error before the first part', () => attempt([SERVER_ERROR]), SERVER_ERROR],
    ['an error behind a part', () => attempt([textPart('x'), SERVER_ERROR]), SERVER_ERROR],
    ['an end without a finish part', () => attempt([textPart('x')]), /without a finish part/],
    [
      'a sink that throws',
      () =>
        attempt(
          ANSWER,
          failing(() => {
            throw sinkError;
          }),
        ),
      sinkError,
    ],
    [
      'a sink that rejects',
      () =>
        attempt(
          ANSWER,
          failing(() => Promise.reject(sinkError)),
        ),
      sinkError,
    ],
    [
      'an abort before the first part',
      async () => {
        const running = await attempt(['silence']);
        running.controller.abort();
        return running;
      },
      { name: 'AbortError' },
    ],
    [
      'an abort between two parts',
      async () => {
        const running = await attempt([textPart('x'), 'silence']);
        running.controller.abort(sinkError);
        return running;
      },
      sinkError,
    ],
    [
      'no first part in time',
      async () => {
        const running = await attempt(['silence']);
        await running.advance(1_000);
        return running;
      },
      { code: 'upstream_timeout', reason: 'first_token_timeout', stage: 'first_token', retryable: true },
    ],
    [
      'silence between two parts',
      async () => {
        const running = await attempt([textPart('x'), 'silence']);
        await running.advance(300);
        return running;
      },
      { code: 'upstream_timeout', reason: 'idle_timeout', stage: 'idle', retryable: true },
    ],
    [
      'no end in time',
      async () => {
        const running = await attempt([
          ...Array(200)
            .fill([100, textPart('x')])
            .flat(),
          FINISH,
        ]);
        await running.advance(10_000, 100);
        return running;
      },
      { code: 'upstream_timeout', reason: 'total_timeout', stage: 'total', retryable: true },
    ],
  ];
  for (const [name, run, expected] of cases) {
    const running = await run();
    const delivered = running.parts.length;
    t.equal(running.faults.length, 1, `${name}: one fault`);
    if (expected instanceof RegExp) t.match(String(running.faults[0]), expected, name);
    else if (expected instanceof Error) t.equal(running.faults[0], expected, name);
    else t.match(running.faults[0], expected, name);
    t.equal(running.upstream()?.aborted, true, `${name}: the upstream is aborted`);
    t.equal(running.upstream()?.reason, running.faults[0], `${name}: with the fault`);
    await settle();
    // A part that is due by the clock may still arrive at the generator, which then ends.
    await running.advance(100);
    assertReleased(t, running, name);
    running.controller.abort();
    await running.advance(60_000);
    t.equal(running.faults.length, 1, `${name}: nothing follows the fault`);
    t.equal(running.parts.length, delivered, `${name}: no part follows the fault`);
  }
});

t.test('a signal that is aborted already ends the call without a part', async (t) => {
  const reason = new Error('stopped');
  const signal = AbortSignal.abort(reason);
  const running = await attempt(ANSWER, { signal });
  t.same(running.faults, [reason]);
  t.same(running.parts, []);
  t.equal(running.upstream()?.aborted ?? true, true);
  t.equal(running.clock.pending, 0);
});

t.test('a provider that ignores the abort is not waited for', async (t) => {
  const running = await attempt([textPart('x'), 5_000, textPart('late'), FINISH]);
  running.controller.abort();
  t.equal(running.faults.length, 1, 'reported immediately');
  await running.advance(5_000);
  t.same(running.parts, [textPart('x')], 'late parts are not delivered');
  t.ok(running.isReleased(), 'released when it continues');
});
