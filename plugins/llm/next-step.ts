import { ProviderError } from '../../providers/errors.ts';

/** Decides what follows a failed call. Pure. */

/** State of a question after a failed call. */
export interface CallState {
  /** Calls of this target for the question so far. */
  readonly tries: number;
  /** True if the call has delivered a part. */
  readonly hasBegun: boolean;
  /** True if the route lets another target continue the answer, and the answer is text. */
  readonly canContinue: boolean;
  /** True if a target behind this one can be called now. */
  readonly hasNext: boolean;
  /** True if the target may be called again: its circuit breaker is closed. */
  readonly isClosed: boolean;
  /** Milliseconds until a key of the target can be used; infinite if only an operator can change that. */
  readonly cooldownMs: number;
  /** Milliseconds until the total deadline. */
  readonly remainingMs: number;
  /** Random number from 0 to 1. */
  readonly random: number;
}

export type NextStep =
  /** Calls the same target again after a delay. Uses the retry budget, unless `isFree`. */
  | { readonly kind: 'again'; readonly waitMs: number; readonly isFree: boolean }
  /** Calls the next target immediately. */
  | { readonly kind: 'next' }
  /** Lets the next target continue the answer. */
  | { readonly kind: 'continue' }
  /** Reports the fault. */
  | { readonly kind: 'end' };

/** Fault of a question that no target can express: the settings have changed since it was accepted. */
export const UNSUPPORTED = new ProviderError('upstream_rejected', {
  reason: 'unsupported_option',
  retryable: false,
  upstreamStatus: 400,
});

/** Calls of one target per question. */
const MAX_TRIES = 2;
/** A longer `Retry-After` of a provider is not waited for. */
const MAX_WAIT_MS = 10_000;
/** Longest random wait before a retry (full jitter). */
const JITTER_MS = 500;

const END: NextStep = { kind: 'end' };

/**
 * Returns the step after a failed call. A target that can be called now is better than waiting for one that has just
 * failed; the same target is called again only if there is no other.
 */
export function nextStep(fault: unknown, state: CallState): NextStep {
  // Any other error is a fault of this service, or a shortage of its own: no target is to blame, and none can help.
  if (!(fault instanceof ProviderError) || fault.stage === 'total' || state.remainingMs <= 0) return END;
  if (state.hasBegun) return state.canContinue && state.hasNext ? { kind: 'continue' } : END;
  const waitMs = state.isClosed && state.tries < MAX_TRIES ? retryWaitMs(fault, state) : undefined;
  const canRetry = waitMs !== undefined && waitMs < state.remainingMs;
  // The target had not seen the call: a repetition adds no load, and says more than another target.
  if (canRetry && isStaleConnection(fault)) return { kind: 'again', waitMs, isFree: true };
  if (state.hasNext && mayAnotherAnswer(fault)) return { kind: 'next' };
  return canRetry ? { kind: 'again', waitMs, isFree: false } : END;
}

/**
 * Returns the milliseconds to wait before the same target is called again; undefined for no retry. A target that
 * timed out after it had accepted the connection is not retried.
 */
function retryWaitMs({ retryable, stage, retryAfterMs }: ProviderError, state: CallState): number | undefined {
  if (!retryable || (stage !== undefined && stage !== 'connect')) return undefined;
  const delayMs = Math.max(retryAfterMs ?? 0, state.cooldownMs);
  if (delayMs > MAX_WAIT_MS) return undefined;
  if (delayMs === 0 && retryAfterMs === 0) return 0;
  // Jitter, because many callers were told the same time.
  return delayMs + Math.floor(state.random * JITTER_MS);
}

/** Refusals of a question that another target may accept: its model is another one. */
const TARGET_REFUSALS: ReadonlySet<string> = new Set([
  'context_length_exceeded',
  'model_not_found',
  'unsupported_parameter',
]);

/** Returns true if the question is not at fault, or only too much for this target. */
function mayAnotherAnswer({ code, status, refusal }: ProviderError): boolean {
  return code !== 'upstream_rejected' || status >= 500 || TARGET_REFUSALS.has(refusal ?? '');
}

function isStaleConnection({ reason }: ProviderError): boolean {
  return reason === 'stale_connection';
}

/** Reasons of errors inside a stream that concern the key. */
const KEY_REASONS: ReadonlySet<string> = new Set(['billing', 'credentials', 'rate_limited']);

/** Returns true if the failure concerns the target, and not the question, a key, a rate limit or this process. */
export function countsAgainstTarget(fault: unknown): boolean {
  if (!(fault instanceof ProviderError) || fault.stage === 'total' || isStaleConnection(fault)) return false;
  if (fault.code === 'upstream_error') return fault.retryable && !KEY_REASONS.has(fault.reason);
  return fault.code !== 'upstream_rejected' && fault.code !== 'upstream_rate_limited';
}

/** Returns true if the target, or its last key, has reached a limit. */
export function isRateLimit(fault: unknown): boolean {
  if (!(fault instanceof ProviderError)) return false;
  return fault.code === 'upstream_rate_limited' || fault.reason === 'rate_limited';
}
