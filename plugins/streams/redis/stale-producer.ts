import { isReplyError } from '../../redis/reply-error.ts';

/** Returns true if Redis rejected an entry because its id is too low: a newer producer may have written. */
export function isStaleProducerError(error: unknown): boolean {
  return isReplyError(error) && /equal or smaller/.test(error.message);
}
