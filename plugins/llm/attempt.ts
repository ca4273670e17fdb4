import { ProviderError, type TimeoutStage } from '../../providers/errors.ts';
import type { AnswerPart, StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Deadlines, Target } from '../config/model-routes.ts';
import type { ModelPrice } from '../config/price-file.ts';

/** Takes an answer part by part. */
export interface PartSink {
  /**
   * Takes a part; a `finish` is the last one. If it returns a promise, the next part waits for it. If
   * the promise rejects, the call ends with that fault.
   */
  onPart(part: AnswerPart): Promise<void> | undefined;
  /** Called if the answer ended before it was complete. Nothing follows. */
  onFault(fault: unknown): void;
}

/** A call that has ended, complete or not. */
export interface EndedCall {
  readonly target: Target;
  /** `ok`, or the reason of the failure. */
  readonly outcome: string;
  /** Undefined for a complete answer. */
  readonly fault?: unknown;
  /** Estimated tokens of the answer, if the call has failed after its first part. */
  readonly outputTokens?: number | undefined;
}

/** Takes the answer to a question, which several calls may produce. */
export interface AnswerSink extends PartSink {
  /** Called before each call of a target, with its price if it is known. */
  onTarget(target: Target, price: ModelPrice | undefined): void;
  /** Called before the first part of each call. */
  onFirstPart(): void;
  /** Called when a call has ended, before its `finish` or its fault. Not called for a call that the signal aborts. */
  onCallEnd?(call: EndedCall): void;
}

/**
 * Runs one upstream call under its deadlines: first part, silence between parts, thinking, whole answer. All but
 * the last run only while a part is awaited, so that back-pressure does not count. Only complete parts stop
 * them; pings and incomplete events do not. While the provider reports that the model is thinking, the deadline
 * for thinking replaces the first two.
 *
 * Uses callbacks instead of `for await`: it ends immediately when a deadline passes or `signal` aborts, even
 * if the provider hangs. It costs one promise per part; its two timers serve the whole call.
 */
export function runAttempt(
  call: (signal: AbortSignal) => AsyncGenerator<StreamPart, void, undefined>,
  deadlines: Deadlines,
  clock: Clock,
  sink: PartSink,
  signal: AbortSignal,
): void {
  const upstream = new AbortController();
  const parts = call(upstream.signal);
  let stage: 'first_token' | 'idle' = 'first_token';
  let isAwaiting = false;
  let awaitedSince = 0;
  let cancelCheck: (() => void) | undefined;
  /** Time of the first report of thinking since the last content. */
  let thinkingSince: number | undefined;
  let isFinishing = false;
  let isOver = false;

  const cancelTotal = clock.after(deadlines.totalMs, () => fail(timeout('total')));
  const onAbort = () => fail(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  else pull();

  function pull(): void {
    if (isOver) return;
    isAwaiting = true;
    awaitedSince = clock.now();
    if (cancelCheck === undefined && !isFinishing) check();
    parts.next().then(onResult, fail);
  }

  function onResult(result: IteratorResult<StreamPart, void>): void {
    if (isOver) return;
    isAwaiting = false;
    if (result.done) {
      fail(new Error('provider ended without a finish part'));
      return;
    }
    try {
      onPart(result.value);
    } catch (error) {
      fail(error);
    }
  }

  function onPart(part: StreamPart): void {
    if (part.type === 'finishing') {
      // The answer is complete, and the provider's own timer ends it.
      isFinishing = true;
      cancelTotal();
      cancelCheck?.();
      pull();
      return;
    }
    if (part.type === 'thinking') {
      thinkingSince ??= clock.now();
      pull();
      return;
    }
    if (part.type === 'finish') finish();
    else if (stage === 'first_token' || thinkingSince !== undefined) {
      // The deadline that applies from now on may be shorter.
      stage = 'idle';
      thinkingSince = undefined;
      cancelCheck?.();
      cancelCheck = undefined;
    }
    const drained = sink.onPart(part);
    if (drained === undefined) pull();
    else drained.then(pull, fail);
  }

  /** One timer serves many parts: when it fires, it is set again for the remaining time. */
  function check(): void {
    cancelCheck = undefined;
    if (!isAwaiting) return;
    const silenceMs = stage === 'idle' ? deadlines.idleMs : deadlines.firstTokenMs;
    const endsAt = thinkingSince === undefined ? awaitedSince + silenceMs : thinkingSince + deadlines.thinkingMs;
    const remaining = endsAt - clock.now();
    if (remaining <= 0) fail(timeout(stage));
    else cancelCheck = clock.after(remaining, check);
  }

  function fail(fault: unknown): void {
    if (isOver) return;
    upstream.abort(fault);
    finish();
    sink.onFault(fault);
  }

  function finish(): void {
    isOver = true;
    cancelTotal();
    cancelCheck?.();
    signal.removeEventListener('abort', onAbort);
    // Lets the generator return its socket to the pool.
    parts.return().catch(() => {});
  }
}

function timeout(stage: TimeoutStage): ProviderError {
  return new ProviderError('upstream_timeout', { reason: `${stage}_timeout`, stage, retryable: true });
}
