import { ProviderError, type TimeoutStage } from '../../providers/errors.ts';
import type { StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Deadlines } from '../config/model-routes.ts';

/** Where an answer goes, part by part. */
export interface PartSink {
  /**
   * Takes a part; a `finish` is the last. A promise means: no further part before it settles, and
   * if it rejects, none at all.
   */
  onPart(part: StreamPart): Promise<void> | undefined;
  /** The answer broke off, for this reason. Nothing follows. */
  onFault(fault: unknown): void;
}

/**
 * Runs one upstream call under its limits: first part, silence between parts, whole answer. The
 * clock of the first two runs only while a part is waited for, so back-pressure never counts, and
 * only whole parts stop it, so pings and dripping bytes do not.
 *
 * Written with callbacks and not with `for await`: it ends at once when a limit or `signal` strikes,
 * even if the provider hangs, and costs one promise a part and no timer.
 */
export function runAttempt(
  call: (signal: AbortSignal) => AsyncGenerator<StreamPart, void, undefined>,
  limits: Deadlines,
  clock: Clock,
  sink: PartSink,
  signal: AbortSignal,
): void {
  const upstream = new AbortController();
  const parts = call(upstream.signal);
  let stage: 'first_token' | 'idle' = 'first_token';
  let waiting = false;
  let waitingSince = 0;
  let cancelCheck: (() => void) | undefined;
  let over = false;

  const cancelTotal = clock.after(limits.totalMs, () => fail(timeout('total')));
  const onAbort = () => fail(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  else pull();

  function pull(): void {
    if (over) return;
    waiting = true;
    waitingSince = clock.now();
    if (cancelCheck === undefined) check();
    parts.next().then(onResult, fail);
  }

  function onResult(result: IteratorResult<StreamPart, void>): void {
    if (over) return;
    waiting = false;
    if (result.done) {
      fail(new Error('a provider ended without a finish part'));
      return;
    }
    try {
      onPart(result.value);
    } catch (error) {
      fail(error);
    }
  }

  function onPart(part: StreamPart): void {
    if (part.type === 'finish') finish();
    else if (stage === 'first_token') {
      stage = 'idle';
      cancelCheck?.();
      cancelCheck = undefined;
    }
    const room = sink.onPart(part);
    if (room === undefined) pull();
    else room.then(pull, fail);
  }

  /** One timer for many parts: it looks back when it fires, and is set again for what remains. */
  function check(): void {
    cancelCheck = undefined;
    if (!waiting) return;
    const limit = stage === 'idle' ? limits.idleMs : limits.firstTokenMs;
    const remaining = waitingSince + limit - clock.now();
    if (remaining <= 0) fail(timeout(stage));
    else cancelCheck = clock.after(remaining, check);
  }

  function fail(fault: unknown): void {
    if (over) return;
    upstream.abort(fault);
    finish();
    sink.onFault(fault);
  }

  function finish(): void {
    over = true;
    cancelTotal();
    cancelCheck?.();
    signal.removeEventListener('abort', onAbort);
    // Lets a generator that rests after its last part give its socket back to the pool.
    parts.return().catch(() => {});
  }
}

function timeout(stage: TimeoutStage): ProviderError {
  return new ProviderError('upstream_timeout', { reason: `${stage}_timeout`, stage, retryable: true });
}
