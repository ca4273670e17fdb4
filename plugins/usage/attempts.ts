import { ProviderError } from '../../providers/errors.ts';
import type { Target } from '../config/model-routes.ts';
import type { EndedCall } from '../llm/attempt.ts';
import { CHARS_PER_TOKEN } from '../llm/continuation.ts';

/** One provider call of a generation. */
export interface Attempt {
  /** The target as `provider/model`; undefined if another replica has made the call. */
  readonly target: string | undefined;
  /** `ok`, `aborted`, or the reason of the failure. */
  readonly outcome: string;
  /** True if the provider has refused the call, or was not reached, so that it bills nothing. */
  readonly isFree: boolean;
  /** Estimated tokens of the answer, if the call has failed after its first part. */
  readonly outputTokens: number | undefined;
}

/** Collects the calls of one generation. */
export interface Attempts {
  onStart(target: Target): void;
  onEnd(call: EndedCall): void;
  /** Returns the calls in order. A call that still runs is aborted by the end of its generation. */
  list(): readonly Attempt[];
}

/** Codes of calls that a provider has not begun to answer, so that it bills nothing. */
const UNANSWERED: ReadonlySet<unknown> = new Set([
  'upstream_unreachable',
  'upstream_rate_limited',
  'upstream_rejected',
  'upstream_failed',
]);

/** Returns true if no provider has begun to answer. Any other error than a `ProviderError` is a fault of this service. */
export function wasRefused(fault: unknown): boolean {
  return fault instanceof ProviderError ? UNANSWERED.has(fault.code) : fault !== undefined;
}

/** @param partialAnswer text that a dead replica has produced */
export function createAttempts(partialAnswer = ''): Attempts {
  const ended: Attempt[] = [];
  let running: string | undefined;
  if (partialAnswer !== '') ended.push(attemptElsewhere(Math.ceil(partialAnswer.length / CHARS_PER_TOKEN)));
  return {
    onStart({ provider, model }) {
      running = `${provider}/${model}`;
    },
    onEnd({ target: { provider, model }, outcome, fault, outputTokens }) {
      running = undefined;
      const isFree = outputTokens === undefined && wasRefused(fault);
      ended.push({ target: `${provider}/${model}`, outcome, isFree, outputTokens });
    },
    list() {
      if (running === undefined) return ended;
      return [...ended, { target: running, outcome: 'aborted', isFree: false, outputTokens: undefined }];
    },
  };
}

/** Returns the calls of a replica that has died: nobody knows their targets. */
export function attemptElsewhere(outputTokens?: number): Attempt {
  return { target: undefined, outcome: 'stream_lost', isFree: false, outputTokens };
}
