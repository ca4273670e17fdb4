import { getEventListeners } from 'node:events';
import type { Test } from 'tap';
import { runAttempt } from '../../plugins/llm/attempt.ts';
import type { StreamPart } from '../../providers/types.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { settle } from './client.ts';

/** Runs one call with a scripted provider and a clock that the test advances. */

const DEADLINES = { firstTokenMs: 1_000, idleMs: 300, thinkingMs: 5_000, totalMs: 10_000 };

/** Milliseconds to wait, a part, an error, or silence until the abort. */
type Step = number | StreamPart | Error | 'silence';

export interface Attempt {
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

/** Runs a call whose provider plays `steps` by the test's clock. */
export async function attempt(steps: readonly Step[], options: AttemptOptions = {}): Promise<Attempt> {
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

/** Asserts that nothing of a call is left: neither its socket, nor timers, nor listeners. */
export function assertReleased(t: Test, { clock, controller, isReleased }: Attempt, name: string): void {
  t.ok(isReleased(), `${name}: the provider is released`);
  t.equal(clock.pending, 0, `${name}: no timer is pending`);
  t.same(getEventListeners(controller.signal, 'abort'), [], `${name}: no listener is left on the signal`);
}
