import { OverloadedError, ProviderError } from '../../providers/errors.ts';
import type { FinishPart, ProviderState } from '../../providers/types.ts';
import type { Terminal } from './types.ts';

/** The terminals of a log, each with its public code, status and message. */

function streamLost(message: string): Terminal {
  return { type: 'error', code: 'stream_lost', message, status: 502, retryable: true };
}

/** The replica that produced the answer is dead, or lost the log to another replica. */
export const PRODUCER_LOST = streamLost('The replica that produced the answer has stopped.');

/** Entries of the log are missing in Redis. */
export const ENTRIES_LOST = streamLost('Part of the answer was lost.');

export const SHUT_DOWN = streamLost('The service was stopped before the answer was complete.');

export const STOPPED: Terminal = { type: 'end', finishReason: 'stopped' };

export const ABANDONED: Terminal = {
  type: 'error',
  code: 'abandoned',
  message: 'The answer was ended because it had no reader.',
  status: 404,
  retryable: true,
};

export const LIMIT_EXCEEDED: Terminal = {
  type: 'error',
  code: 'limit_exceeded',
  message: 'The answer is longer than this service allows.',
  status: 502,
  retryable: false,
};

/** The key or token of the question, or of the reader, is no longer accepted. */
export const REVOKED: Terminal = {
  type: 'error',
  code: 'revoked',
  message: 'The key or token of this request was revoked or has expired.',
  status: 401,
  retryable: false,
};

const INTERNAL: Terminal = {
  type: 'error',
  code: 'internal',
  message: 'Internal error.',
  status: 500,
  retryable: false,
};

/**
 * Returns true if a question whose answer ended like this may be asked again under its idempotency key: it failed for a
 * reason that passes, and nobody can have a part of its answer.
 */
export function isRepeatable(terminal: Terminal, length: number): boolean {
  return terminal.type === 'error' && terminal.retryable && length === 0;
}

/** Returns how a generation ended: `ok`, `stopped`, or the code of the error. */
export function outcomeOf(terminal: Terminal): string {
  if (terminal.type === 'error') return terminal.code;
  return terminal.finishReason === 'stopped' ? 'stopped' : 'ok';
}

/** Returns the terminal of a complete answer. */
export function endTerminal({ reason, usage, state, targets }: FinishPart): Terminal {
  return { type: 'end', finishReason: reason, usage, state: state as ProviderState | undefined, targets };
}

/** Returns the terminal of a failed call. Anything but an error of `providers/errors.ts` is a fault of this service. */
export function errorTerminal(fault: unknown): Terminal {
  if (fault instanceof OverloadedError) {
    const { code, message, status, retryAfterMs } = fault;
    return { type: 'error', code, message, status, retryable: true, retryAfterMs };
  }
  if (!(fault instanceof ProviderError)) return INTERNAL;
  const { code, message, status, retryable, retryAfterMs, stage, refusal, param } = fault;
  return { type: 'error', code, message, status, retryable, retryAfterMs, stage, reason: refusal, param };
}
