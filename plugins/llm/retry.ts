import { ProviderError } from '../../providers/errors.ts';

/** Decides what follows a failed call: retry, fallback, or neither. Pure. */

/** Calls of one target per question. */
const MAX_TRIES = 2;
/** A longer `Retry-After` of a provider is not waited for. */
const MAX_WAIT_MS = 10_000;
/** Longest random wait before a retry (full jitter). */
const JITTER_MS = 500;

/**
 * Returns the milliseconds to wait before the same target is called again; undefined for no retry. A
 * target that timed out after it had accepted the connection is not retried.
 */
export function retryWaitMs(fault: unknown, tries: number, random: () => number): number | undefined {
  if (!(fault instanceof ProviderError) || !fault.retryable || tries >= MAX_TRIES) return undefined;
  if (fault.stage !== undefined && fault.stage !== 'connect') return undefined;
  const { retryAfterMs } = fault;
  if (retryAfterMs === 0) return 0;
  if (retryAfterMs !== undefined && retryAfterMs > MAX_WAIT_MS) return undefined;
  // Jitter, because many callers were told the same time.
  return (retryAfterMs ?? 0) + Math.floor(random() * JITTER_MS);
}

/** Refusals of a question that another target may accept: its model is another one. */
const TARGET_REFUSALS: ReadonlySet<string> = new Set([
  'context_length_exceeded',
  'model_not_found',
  'unsupported_parameter',
]);

/**
 * Returns true if another target may succeed: its total deadline has not passed, and the question is not at fault, or
 * only too much for this target.
 */
export function canFallBack(fault: unknown): boolean {
  if (!(fault instanceof ProviderError) || fault.stage === 'total') return false;
  if (fault.code !== 'upstream_rejected' || fault.status >= 500) return true;
  return TARGET_REFUSALS.has(fault.refusal ?? '');
}

/** Returns true if the target rejected the call. A fallback then adds no load to a failing target. */
export function isRejectedByTarget(fault: unknown): boolean {
  return fault instanceof ProviderError && fault.code === 'upstream_rejected';
}

/** Returns true if a retry adds no load to a failing target: the target had not seen the call. */
export function isFreeRetry(fault: unknown): boolean {
  return fault instanceof ProviderError && fault.reason === 'stale_connection';
}

/** Reasons of errors inside a stream that concern the key, also if another key makes them retryable. */
const KEY_REASONS: ReadonlySet<string> = new Set(['billing', 'credentials', 'rate_limited']);

/** Returns true if the failure concerns the target, and not the question, a key or a rate limit. */
export function countsAgainstTarget(fault: unknown): boolean {
  if (!(fault instanceof ProviderError) || fault.stage === 'total') return false;
  if (fault.reason === 'stale_connection') return false;
  if (fault.code === 'upstream_error') return fault.retryable && !KEY_REASONS.has(fault.reason);
  return fault.code !== 'upstream_rejected' && fault.code !== 'upstream_rate_limited';
}
