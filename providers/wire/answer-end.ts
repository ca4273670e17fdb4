import { ProviderError } from '../errors.ts';
import type { FinishPart, FinishReason, Usage } from '../types.ts';
import { finishClass } from './finish-reason.ts';
import type { PartBuffer } from './parts.ts';

/**
 * Decides for all dialects whether an answer is complete, from what its decoder has seen and not from how the
 * connection ended:
 *
 * - A finish reason completes it. A finish reason that names a failure is an error.
 * - The end marker (`[DONE]`, `message_stop`, `done: true`), or usage without content at the end, completes it if
 *   something was delivered.
 * - Everything else is `upstream_truncated`, so that a retry or a fallback follows.
 */
export interface AnswerEnd {
  /** Reports a finish reason. @throws ProviderError for one that names a failure */
  reason(raw: string): void;
  /** Reports the end marker: nothing follows. */
  marker(): void;
  /** Reports usage without content. Snowflake ends its answers with it and sends no finish reason. */
  usageOnly(): void;
  /** Reports content: an earlier `usageOnly` was not the end. */
  content(): void;
  /** True after the end marker: nothing more is read. */
  readonly done: boolean;
  /** True after a finish reason: from now on only an error object turns the answer into a failure. */
  readonly isFinished: boolean;
  /**
   * Returns the finish part.
   * @param hasToolCalls turns `stop` into `tool_calls`, as OpenAI says it; many providers say `stop`
   * @throws ProviderError if the answer is not complete
   */
  finish(usage: Usage | undefined, hasToolCalls: boolean): FinishPart;
}

export function createAnswerEnd(parts: PartBuffer): AnswerEnd {
  let rawReason: string | undefined;
  let meaning: FinishReason = 'stop';
  let hasMarker = false;
  let endsWithUsage = false;

  return {
    reason(raw) {
      const found = finishClass(raw);
      if (found === 'failure') throw failedError(raw);
      rawReason = raw;
      meaning = found;
    },
    marker() {
      hasMarker = true;
    },
    usageOnly() {
      endsWithUsage = true;
    },
    content() {
      endsWithUsage = false;
    },
    get done() {
      return hasMarker;
    },
    get isFinished() {
      return rawReason !== undefined;
    },
    finish(usage, hasToolCalls) {
      if (rawReason === undefined && !(parts.hasContent && (hasMarker || endsWithUsage))) throw truncatedError();
      // A word that nobody knows, and nothing with it: a success with an empty answer would hide a failure.
      if (rawReason !== undefined && meaning === 'other' && !parts.hasContent) throw failedError(rawReason);
      return {
        type: 'finish',
        reason: meaning === 'stop' && hasToolCalls ? 'tool_calls' : meaning,
        ...(rawReason !== undefined && { rawReason }),
        ...(usage && { usage }),
      };
    },
  };
}

/** Returns the error for a finish reason that stands for a failure. */
function failedError(code: string): ProviderError {
  return new ProviderError('upstream_error', { reason: 'finish_reason', retryable: true, upstream: { code } });
}

/** Returns the error for a stream that ended before the answer was complete. */
export function truncatedError(): ProviderError {
  return new ProviderError('upstream_truncated', { reason: 'truncated', retryable: true });
}
