import { ProviderError } from '../../providers/errors.ts';

/** What a failure calls for. Pure. */

/** Calls of one target for one question. */
const MAX_TRIES = 2;
/** A longer delay than this is not waited for. */
const MAX_WAIT_MS = 10_000;
/** Full jitter: up to so much before the second try. */
const JITTER_MS = 500;

/**
 * How long to wait before the same target is asked again; undefined for not at all. A target that was
 * waited for in vain is not waited for twice.
 */
export function retryWaitMs(fault: unknown, tries: number, random: () => number): number | undefined {
  if (!(fault instanceof ProviderError) || !fault.retryable || tries >= MAX_TRIES) return undefined;
  if (fault.stage !== undefined && fault.stage !== 'connect') return undefined;
  const { retryAfterMs } = fault;
  if (retryAfterMs === 0) return 0;
  if (retryAfterMs !== undefined && retryAfterMs > MAX_WAIT_MS) return undefined;
  // All who were told the same time must not come back in the same moment.
  return (retryAfterMs ?? 0) + Math.floor(random() * JITTER_MS);
}

/** Whether another target may do better: not with a question that is itself at fault, and not past its time. */
export function canFallBack(fault: unknown): boolean {
  if (!(fault instanceof ProviderError) || fault.stage === 'total') return false;
  return !(fault.code === 'upstream_rejected' && fault.status < 500);
}

/** Whether the target refused at once, as it will the next time: going on costs it nothing. */
export function isRejectedByTarget(fault: unknown): boolean {
  return fault instanceof ProviderError && fault.code === 'upstream_rejected';
}

/** Whether it tells of the target, and not of the question, a key or a limit. */
export function countsAgainstTarget(fault: unknown): boolean {
  if (!(fault instanceof ProviderError) || fault.stage === 'total') return false;
  if (fault.code === 'upstream_error') return fault.retryable;
  return fault.code !== 'upstream_rejected' && fault.code !== 'upstream_rate_limited';
}
