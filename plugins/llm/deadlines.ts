import { ProviderError, type TimeoutStage } from '../../providers/errors.ts';
import type { StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Limits } from './model-routes.ts';

/**
 * Runs one upstream call under its limits: first part, silence between parts, whole answer. The
 * clock of the first two runs only while somebody waits for a part, so back-pressure never counts,
 * and only whole parts stop it, so pings and dripping bytes do not.
 *
 * A plain iterator and not an async generator: it settles at once when a limit or `signal` strikes,
 * even if the provider hangs, and sets no timer per part.
 */
export function withDeadlines(
  call: (signal: AbortSignal) => AsyncGenerator<StreamPart, void, undefined>,
  limits: Limits,
  clock: Clock,
  signal: AbortSignal,
): AsyncIterator<StreamPart, void, undefined> {
  const upstream = new AbortController();
  const parts = call(upstream.signal);
  let stage: 'first_token' | 'idle' = 'first_token';
  let waitingSince: number | undefined;
  let cancelCheck: (() => void) | undefined;
  let rejectWaiting: ((error: unknown) => void) | undefined;
  let over = false;

  const cancelTotal = clock.after(limits.totalMs, () => fail(timeout('total')));
  const onAbort = () => fail(signal.reason);
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });

  function finish(): void {
    over = true;
    waitingSince = undefined;
    cancelTotal();
    cancelCheck?.();
    signal.removeEventListener('abort', onAbort);
  }

  function fail(error: unknown): void {
    if (over) return;
    finish();
    upstream.abort(error);
    rejectWaiting?.(error);
  }

  /** One timer for many parts: it looks back when it fires, and is set again for what remains. */
  function check(): void {
    cancelCheck = undefined;
    if (waitingSince === undefined) return;
    const limit = stage === 'idle' ? limits.idleMs : limits.firstTokenMs;
    const remaining = waitingSince + limit - clock.now();
    if (remaining <= 0) fail(timeout(stage));
    else cancelCheck = clock.after(remaining, check);
  }

  return {
    next() {
      if (over) return Promise.resolve({ done: true, value: undefined });
      waitingSince = clock.now();
      if (cancelCheck === undefined) check();
      return new Promise((resolve, reject) => {
        rejectWaiting = reject;
        parts.next().then(
          (result) => {
            if (over) return;
            waitingSince = undefined;
            if (result.done) finish();
            else if (stage === 'first_token') {
              stage = 'idle';
              cancelCheck?.();
              cancelCheck = undefined;
            }
            resolve(result);
          },
          (error: unknown) => {
            if (!over) finish();
            reject(error);
          },
        );
      });
    },
    async return() {
      // A generator that waits for its upstream is reached by the signal alone. One that rests
      // after its last part has nothing to abort, and gives its socket back to the pool.
      const waits = waitingSince !== undefined;
      if (!over) finish();
      if (waits) upstream.abort();
      await parts.return();
      return { done: true, value: undefined };
    },
  };
}

function timeout(stage: TimeoutStage): ProviderError {
  return new ProviderError('upstream_timeout', { reason: `${stage}_timeout`, stage, retryable: true });
}
