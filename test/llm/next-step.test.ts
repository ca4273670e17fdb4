import t from 'tap';
import {
  type CallState,
  countsAgainstTarget,
  isRateLimit,
  type NextStep,
  nextStep,
} from '../../plugins/llm/next-step.ts';
import { fault } from './fake-provider.ts';

/** Tests the step after a failed call, as a table of faults and situations. */

const STATE: CallState = {
  tries: 1,
  hasBegun: false,
  canContinue: false,
  hasNext: false,
  isClosed: true,
  cooldownMs: 0,
  remainingMs: 60_000,
  random: 0.5,
};
const again = (waitMs: number, isFree = false): NextStep => ({ kind: 'again', waitMs, isFree });
const NEXT: NextStep = { kind: 'next' };
const CONTINUE: NextStep = { kind: 'continue' };
const END: NextStep = { kind: 'end' };

const rejected = (upstreamStatus: number, init: object = {}) =>
  fault('upstream_rejected', { retryable: false, upstreamStatus, ...init });

/** As the error of `providers/errors.ts` for a shortage in this process. */
class OverloadedError extends Error {
  readonly code = 'overloaded';
  readonly retryable = true;
}

/** Fault; the step if no other target is free; the step if one is; whether it counts against the target. */
const FAULTS: [string, unknown, NextStep, NextStep, boolean][] = [
  ['a server error', fault('upstream_failed'), again(250), NEXT, true],
  ['a server error that does not pass', fault('upstream_failed', { retryable: false }), END, NEXT, true],
  ['an unreachable server', fault('upstream_unreachable'), again(250), NEXT, true],
  ['an invalid response', fault('upstream_protocol', { retryable: false }), END, NEXT, true],
  ['an incomplete answer', fault('upstream_truncated'), again(250), NEXT, true],
  ['an error in the stream', fault('upstream_error'), again(250), NEXT, true],
  ['one that does not pass', fault('upstream_error', { retryable: false }), END, NEXT, false],
  ['no connection in time', fault('upstream_timeout', { stage: 'connect' }), again(250), NEXT, true],
  ['no headers in time', fault('upstream_timeout', { stage: 'headers' }), END, NEXT, true],
  ['no first token in time', fault('upstream_timeout', { stage: 'first_token' }), END, NEXT, true],
  ['the total deadline', fault('upstream_timeout', { stage: 'total' }), END, END, false],
  ['a rate limit', fault('upstream_rate_limited'), again(250), NEXT, false],
  ['with a short delay', fault('upstream_rate_limited', { retryAfterMs: 4_000 }), again(4_250), NEXT, false],
  ['with the longest delay', fault('upstream_rate_limited', { retryAfterMs: 10_000 }), again(10_250), NEXT, false],
  ['with a longer delay', fault('upstream_rate_limited', { retryAfterMs: 10_001 }), END, NEXT, false],
  ['with a delay of 0', fault('upstream_rate_limited', { retryAfterMs: 0 }), again(0), NEXT, false],
  ['that does not pass', fault('upstream_rate_limited', { retryable: false }), END, NEXT, false],
  ['in the stream', fault('upstream_error', { reason: 'rate_limited' }), again(250), NEXT, false],
  [
    'a refused key in the stream',
    fault('upstream_error', { reason: 'credentials', retryable: false }),
    END,
    NEXT,
    false,
  ],
  ['an invalid key', rejected(401, { reason: 'credentials' }), END, NEXT, false],
  ['an account without credit', rejected(402, { reason: 'billing' }), END, NEXT, false],
  ['a missing model', rejected(404), END, NEXT, false],
  ['a conflict', rejected(409, { retryable: true }), again(250), NEXT, false],
  ['an invalid question', rejected(400), END, END, false],
  ['a question that is too large', rejected(413), END, END, false],
  ['an unprocessable question', rejected(422), END, END, false],
  ['a blocked question', rejected(400, { refusal: 'content_filter' }), END, END, false],
  ['a question too long for the model', rejected(400, { refusal: 'context_length_exceeded' }), END, NEXT, false],
  ['a parameter the model lacks', rejected(400, { refusal: 'unsupported_parameter' }), END, NEXT, false],
  [
    'a stale connection',
    fault('upstream_unreachable', { reason: 'stale_connection', retryAfterMs: 0 }),
    again(0, true),
    again(0, true),
    false,
  ],
  ['no descriptor in this process', new OverloadedError('overloaded'), END, END, false],
  ['an error of this service', new Error('bug'), END, END, false],
  ['an abort', new DOMException('aborted', 'AbortError'), END, END, false],
  ['nothing', undefined, END, END, false],
];

t.test('each fault leads to the next target if one is free, else to a retry or the end', async (t) => {
  for (const [name, error, alone, withNext, counts] of FAULTS) {
    t.same(nextStep(error, STATE), alone, `${name}: the only target`);
    t.same(nextStep(error, { ...STATE, hasNext: true }), withNext, `${name}: another is free`);
    t.equal(countsAgainstTarget(error), counts, `${name}: the breaker`);
    const isAgain = alone.kind === 'again' && !alone.isFree;
    for (const [what, change] of [
      ['a second failure', { tries: 2 }],
      ['an open breaker', { isClosed: false }],
      ['a delay that reaches the deadline', { remainingMs: isAgain ? alone.waitMs : 0 }],
    ] as const) {
      if (isAgain && alone.waitMs === 0 && 'remainingMs' in change) continue;
      t.same(nextStep(error, { ...STATE, ...change }), END, `${name}: ${what}`);
    }
    if (withNext.kind === 'next')
      t.same(nextStep(error, { ...STATE, tries: 2, isClosed: false, hasNext: true }), NEXT, `${name}: whatever tries`);
  }
});

t.test('a retry that just fits into the deadline is made', async (t) => {
  t.same(nextStep(fault('upstream_failed'), { ...STATE, remainingMs: 251 }), again(250));
  t.same(nextStep(fault('upstream_failed'), { ...STATE, random: 0, remainingMs: 1 }), again(0));
  t.same(nextStep(fault('upstream_failed'), { ...STATE, random: 0.999 }), again(499));
  t.same(nextStep(fault('upstream_failed'), { ...STATE, hasNext: true, remainingMs: 0 }), END, 'no time is left');
});

t.test('a retry waits for the first key that can be used, if that is soon', async (t) => {
  const cases: [number | undefined, number, NextStep][] = [
    [undefined, 1_000, again(1_250)],
    [0, 1_000, again(1_250)],
    [4_000, 1_000, again(4_250)],
    [1_000, 4_000, again(4_250)],
    [undefined, 10_000, again(10_250)],
    [undefined, 10_001, END],
    [undefined, Number.POSITIVE_INFINITY, END],
  ];
  for (const [retryAfterMs, cooldownMs, step] of cases) {
    const limited = fault('upstream_rate_limited', { retryAfterMs });
    t.same(nextStep(limited, { ...STATE, cooldownMs }), step, `${retryAfterMs}, ${cooldownMs}`);
    t.same(nextStep(limited, { ...STATE, cooldownMs, hasNext: true }), NEXT);
  }
});

t.test('a second stale connection leads to the next target', async (t) => {
  const stale = fault('upstream_unreachable', { reason: 'stale_connection', retryAfterMs: 0 });
  t.same(nextStep(stale, { ...STATE, tries: 2 }), END);
  t.same(nextStep(stale, { ...STATE, tries: 2, hasNext: true }), NEXT);
});

t.test('after the first part, only a continuation by another target follows', async (t) => {
  for (const [name, error, , withNext] of FAULTS) {
    const begun = { ...STATE, hasBegun: true };
    const isProviderFault = withNext !== END || String(name).includes('question');
    t.same(nextStep(error, begun), END, name);
    t.same(nextStep(error, { ...begun, hasNext: true }), END, `${name}: the route does not continue`);
    t.same(nextStep(error, { ...begun, canContinue: true }), END, `${name}: no target is free`);
    const step = nextStep(error, { ...begun, canContinue: true, hasNext: true });
    t.same(step, isProviderFault ? CONTINUE : END, `${name}: continue`);
  }
});

t.test('a rate limit is known before the answer and in it', async (t) => {
  t.equal(isRateLimit(fault('upstream_rate_limited')), true);
  t.equal(isRateLimit(fault('upstream_error', { reason: 'rate_limited' })), true);
  t.equal(isRateLimit(fault('upstream_failed')), false);
  t.equal(isRateLimit(new Error('bug')), false);
});
