import { getEventListeners } from 'node:events';
import t, { type Test } from 'tap';
import { runAttempt } from '../../plugins/llm/attempt.ts';
import type { StreamPart } from '../../providers/types.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { settle } from './client.ts';
import { ANSWER, FINISH, SERVER_ERROR, textPart } from './fake-provider.ts';

/** Tests the deadlines of one call, and that each end of it releases everything that the call has used. */

const DEADLINES = { firstTokenMs: 1_000, idleMs: 300, totalMs: 10_000 };

/** Milliseconds to wait, a part, an error, or silence until the abort. */
type Step = number | StreamPart | Error | 'silence';

interface Attempt {
  readonly clock: ManualClock;
  readonly controller: AbortController;
  readonly parts: StreamPart[];
  readonly faults: unknown[];
  /** The signal that the provider got. */
  readonly upstream: () => AbortSignal | undefined;
  /** True if the provider's generator has run its `finally` block: it has released its socket. */
  readonly isReleased: () => boolean;
  /** Advances the clock in steps of `stepMs`, so that parts that become due are delivered in time. */
  advance(ms: number, stepMs?: number): Promise<void>;
}

interface AttemptOptions {
  readonly deadlines?: typeof DEADLINES;
  readonly signal?: AbortSignal;
  readonly onPart?: (part: StreamPart) => Promise<void> | undefined;
}

function gate(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}

/** Runs a call whose provider plays `steps` by the test's clock. */
async function attempt(steps: readonly Step[], options: AttemptOptions = {}): Promise<Attempt> {
  const clock = manualClock();
  const controller = new AbortController();
  const parts: StreamPart[] = [];
  const faults: unknown[] = [];
  let upstream: AbortSignal | undefined;
  let isReleased = false;
  async function* call(signal: AbortSignal): AsyncGenerator<StreamPart, void, undefined> {
    upstream = signal;
    try {
      for (const step of steps) {
        if (typeof step === 'number') await new Promise<void>((resolve) => clock.after(step, resolve));
        else if (step instanceof Error) throw step;
        else if (step !== 'silence') yield step;
        else await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      }
    } finally {
      isReleased = true;
    }
  }
  const onPart = (part: StreamPart) => {
    parts.push(part);
    return options.onPart?.(part);
  };
  const sink = { onPart, onFault: (fault: unknown) => void faults.push(fault) };
  runAttempt(call, options.deadlines ?? DEADLINES, clock, sink, options.signal ?? controller.signal);
  await settle();
  return {
    clock,
    controller,
    parts,
    faults,
    upstream: () => upstream,
    isReleased: () => isReleased,
    async advance(ms, stepMs = ms) {
      for (let done = 0; done < ms; done += stepMs) {
        clock.advance(Math.min(stepMs, ms - done));
        await settle();
      }
    },
  };
}

function assertReleased(t: Test, { clock, controller, isReleased }: Attempt, name: string): void {
  t.ok(isReleased(), `${name}: the provider is released`);
  t.equal(clock.pending, 0, `${name}: no timer is pending`);
  t.same(getEventListeners(controller.signal, 'abort'), [], `${name}: no listener is left on the signal`);
}

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
  const deadlines = { firstTokenMs: 100, idleMs: 5_000, totalMs: 60_000 };
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
