import { settle, type TestClient } from './client.ts';
import { ANSWER, type CallScript, FINISH, fault, NOT_FOUND, SERVER_ERROR, textPart } from './fake-provider.ts';

/** All ways in which a call of a target ends, by what they say about the target. */

/** Runs one generation whose call of the last target ends in a certain way. */
export type Ending = (client: TestClient) => Promise<void>;

const rejected = (upstreamStatus: number, init: object = {}) =>
  fault('upstream_rejected', { retryable: false, upstreamStatus, ...init });
export const PERMANENT = fault('upstream_failed', { retryable: false });

export const generateOnce: Ending = async ({ generate }) => void (await generate());
export const abortDuringCall: Ending = async ({ start }) => {
  const running = await start();
  running.abort();
  await settle();
};
const abortBeforeCall: Ending = async ({ generate }) => void (await generate({ signal: AbortSignal.abort() }));

const abortWithProviderError: Ending = async ({ start }) => {
  const controller = new AbortController();
  await start({ signal: controller.signal });
  controller.abort(SERVER_ERROR);
  await settle();
};

/** Ways in which a call ends that say nothing about the health of the target before its first part. */
export const NEUTRAL: [string, CallScript, Ending?][] = [
  ['a rate limit', [fault('upstream_rate_limited', { retryable: false })]],
  ['a rate limit with a long Retry-After', [fault('upstream_rate_limited', { retryAfterMs: 60_000 })]],
  ['an invalid question', [rejected(400)]],
  ['a question that is too large', [rejected(413)]],
  ['a refused key', [rejected(401, { reason: 'credentials' })]],
  ['an account without credit', [rejected(402, { reason: 'billing' })]],
  ['a missing model', [NOT_FOUND]],
  ['an error in the stream that does not pass', [fault('upstream_error', { retryable: false })]],
  ...['billing', 'credentials', 'rate_limited'].map((reason): [string, CallScript] => [
    `an error in the stream that concerns the key: ${reason}`,
    [fault('upstream_error', { reason, retryAfterMs: 60_000 })],
  ]),
  ['a stale connection', [fault('upstream_unreachable', { reason: 'stale_connection', retryable: false })]],
  ['the total deadline', [fault('upstream_timeout', { stage: 'total', retryable: true })]],
  ['an error of this service', [new Error('bug')]],
  ['an abort during the call', ['silence'], abortDuringCall],
  ['an abort whose reason is an error of a provider', ['silence'], abortWithProviderError],
  ['an abort before the call', ANSWER, abortBeforeCall],
];

/** Ways in which a call ends that say that the target works. */
export const HEALTHY: [string, CallScript, Ending?][] = [
  ['an answer', ANSWER],
  ['an empty answer', [FINISH]],
  ['an abort behind the first part', [textPart('x'), 'silence'], abortDuringCall],
];

/** Ways in which a call ends that count against the target. */
export const FAILURES: [string, CallScript, Ending?][] = [
  ['a server error', [PERMANENT]],
  ['an unreachable server', [fault('upstream_unreachable', { retryable: false })]],
  ['no first part in time', [fault('upstream_timeout', { stage: 'first_token' })]],
  ['an invalid response', [fault('upstream_protocol', { retryable: false })]],
  ['an incomplete answer', [fault('upstream_truncated', { retryable: false })]],
  ['an error in the stream that may pass', [fault('upstream_error', { retryable: true, retryAfterMs: 60_000 })]],
];

/** Ways in which the first target of two ends; its failure leads to the second one. */
export const FIRST_TARGETS: Record<string, CallScript> = {
  'a fallback': [PERMANENT],
  'a continuation': [textPart('x'), PERMANENT],
};
export const CONTINUE = { onMidStreamFailure: 'continue' as const };
