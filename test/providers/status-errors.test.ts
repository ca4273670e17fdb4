import t, { type Test } from 'tap';
import { retryDelay } from '../../providers/wire/retry-delay.ts';
import { statusError } from '../../providers/wire/status-error.ts';

/** Tests how responses with an error status are classified, and which delay before a retry they request. */

const REJECTED = { code: 'upstream_rejected', status: 502, retryable: false };
const LIMITED = { code: 'upstream_rate_limited', reason: 'http_429', status: 429 };

t.test('the status classifies the error', async (t) => {
  const cases: [number, object][] = [
    [400, { ...REJECTED, reason: 'http_400', status: 400 }],
    [401, { ...REJECTED, reason: 'credentials' }],
    [402, { ...REJECTED, reason: 'billing' }],
    [403, { ...REJECTED, reason: 'credentials' }],
    [404, { ...REJECTED, reason: 'http_404' }],
    [405, { ...REJECTED, reason: 'http_405' }],
    [408, { ...REJECTED, reason: 'http_408', retryable: true }],
    [409, { ...REJECTED, reason: 'http_409', retryable: true }],
    [413, { ...REJECTED, reason: 'http_413', status: 413 }],
    [422, { ...REJECTED, reason: 'http_422', status: 422 }],
    [425, { ...REJECTED, reason: 'http_425', retryable: true }],
    [429, { ...LIMITED, retryable: true }],
    [451, { ...REJECTED, reason: 'http_451' }],
    [499, { ...REJECTED, reason: 'http_499' }],
    [500, { code: 'upstream_failed', reason: 'http_500', status: 502, retryable: true }],
    [501, { code: 'upstream_failed', reason: 'http_501', status: 502, retryable: false }],
    [502, { code: 'upstream_failed', reason: 'http_502', retryable: true }],
    [503, { code: 'upstream_failed', reason: 'http_503', retryable: true }],
    [505, { code: 'upstream_failed', reason: 'http_505', retryable: false }],
    [529, { code: 'upstream_failed', reason: 'http_529', retryable: true }],
  ];
  for (const [status, expected] of cases) {
    for (const body of [
      '',
      '{}',
      '{"error":{"message":"a message"}}',
      '<html>',
      'null',
      '[]',
      '17',
      '{"error":null}',
    ]) {
      t.match(
        statusError(status, {}, body),
        { ...expected, upstreamStatus: status, retryAfterMs: undefined },
        `${status} ${body}`,
      );
    }
  }
});

t.test('x-should-retry: false forbids a retry, other values do not', async (t) => {
  for (const status of [409, 429, 500]) {
    const headers = { 'retry-after': '7' };
    const forbidden = statusError(status, { ...headers, 'x-should-retry': 'false' }, '');
    t.match(forbidden, { retryable: false, retryAfterMs: undefined }, `${status} false`);
    t.match(statusError(status, { ...headers, 'x-should-retry': 'true' }, ''), {
      retryable: true,
      retryAfterMs: 7_000,
    });
  }
  t.match(statusError(400, { 'x-should-retry': 'true', 'retry-after': '7' }, ''), {
    retryable: false,
    retryAfterMs: undefined,
  });
});

t.test('the requested delay is part of the error, if a retry may succeed', async (t) => {
  const google = '{"error":{"details":[{"retryDelay":"48s"}]}}';
  t.match(statusError(429, {}, google), { retryable: true, retryAfterMs: 48_000 });
  t.match(statusError(429, {}, `[${google}]`), { retryable: true, retryAfterMs: 48_000 });
  t.match(statusError(429, { 'x-ratelimit-reset-tokens': '6m0s' }, ''), { retryable: true, retryAfterMs: 360_000 });
  t.match(statusError(529, { 'retry-after-ms': '250' }, ''), { retryable: true, retryAfterMs: 250 });
  t.match(statusError(409, { 'retry-after': '2' }, ''), { retryable: true, retryAfterMs: 2_000 });
  t.match(statusError(501, { 'retry-after': '2' }, google), { retryable: false, retryAfterMs: undefined });
  t.match(statusError(400, { 'retry-after': '2' }, google), { retryable: false, retryAfterMs: undefined });
});

t.test('an invalid key is recognized with every 4xx status but 429', async (t) => {
  const bodies = [
    '{"error":{"message":"API key not valid. Please pass a valid API key."}}',
    '{"error":{"message":"API key expired. Please renew the API key."}}',
    '{"error":{"message":"Incorrect API key provided: x"}}',
    '{"error":"Invalid API key"}',
    '{"code":"invalid","error":"Incorrect API key provided"}',
    '{"error":{"code":400,"details":[{"reason":"API_KEY_INVALID"}]}}',
    '[{"error":{"code":400,"details":[{"reason":"API_KEY_INVALID"}]}}]',
  ];
  for (const body of bodies) {
    for (const status of [400, 404, 409])
      t.match(statusError(status, {}, body), { ...REJECTED, reason: 'credentials' }, body);
    t.match(statusError(429, {}, body), LIMITED, `429 ${body}`);
    t.match(statusError(500, {}, body), { code: 'upstream_failed' }, `500 ${body}`);
  }
  for (const message of ['The API key not valid', 'Your question mentions API_KEY_INVALID', 'valid API key']) {
    t.match(statusError(400, {}, JSON.stringify({ error: { message } })), { reason: 'http_400' }, message);
  }
});

t.test('an account without credit or quota is not retried', async (t) => {
  const bodies = [
    '{"error":{"code":"insufficient_quota"}}',
    '{"error":{"type":"insufficient_quota"}}',
    '{"error":{"type":"exceeded_current_quota_error"}}',
    '{"error":{"code":1113}}',
    '{"error":{"message":"Your credit balance is too low to access the Anthropic API. Please go to Plans."}}',
    '{"error":{"message":"已达每月额度上限"}}',
    '{"error":{"message":"主ak的总额度已达上限, limit:5"}}',
  ];
  for (const body of bodies) {
    t.match(statusError(400, {}, body), { ...REJECTED, reason: 'billing' }, `400 ${body}`);
    const headers = { 'retry-after': '1' };
    t.match(statusError(429, headers, body), { ...LIMITED, retryable: false, retryAfterMs: undefined }, `429 ${body}`);
  }
  // A client can put words into a message.
  for (const message of [
    'QPS 超过限制（当前: 201, 限制: 200）',
    'Rate limit reached',
    'the quota per minute',
    'You exceeded your monthly quota',
    "Invalid value: 'Your credit balance is too low to access the Anthropic API'",
    'insufficient_quota',
  ]) {
    const body = JSON.stringify({ error: { message } });
    t.match(statusError(429, {}, body), { retryable: true }, `429 ${message}`);
    t.match(statusError(400, {}, body), { ...REJECTED, reason: 'http_400', status: 400 }, `400 ${message}`);
  }
});

t.test('a spending limit of Anthropic is not retried: it has no retry-after', async (t) => {
  const body = '{"type":"error","error":{"type":"rate_limit_error","message":"limit"}}';
  t.match(statusError(429, {}, body), { ...LIMITED, retryable: false });
  t.match(statusError(429, { 'retry-after': '12' }, body), { ...LIMITED, retryable: true, retryAfterMs: 12_000 });
  t.match(statusError(429, { 'x-should-retry': 'true' }, body), { ...LIMITED, retryable: true });
  for (const other of [
    '{"type":"error","error":{"type":"overloaded_error"}}',
    '{"type":"problem","error":{"type":"rate_limit_error"}}',
    '{"error":{"type":"rate_limit_error"}}',
    '{"type":"error","error":"rate_limit_error"}',
    '{"type":"error"}',
    '"error"',
  ]) {
    t.match(statusError(429, {}, other), { ...LIMITED, retryable: true }, other);
  }
});

t.test('the message, type and code of the provider are kept, and are not part of the message', async (t) => {
  const cases: [string, object | undefined][] = [
    ['{"error":{"message":"M","type":"T","code":"C"}}', { message: 'M', type: 'T', code: 'C' }],
    ['{"error":{"message":"M","type":null,"code":null}}', { message: 'M' }],
    ['{"error":{"code":404}}', { code: 404 }],
    ['{"error":{"code":"404"}}', { code: '404' }],
    ['{"error":{"code":"word","httpCode":503}}', { code: 503 }],
    ['{"error":{"code":"word","status_code":503}}', { code: 503 }],
    ['{"error":{"code":404,"httpCode":503}}', { code: 404 }],
    ['{"error":{"httpCode":503}}', { code: 503 }],
    ['{"error":{"code":null,"status_code":503}}', { code: 503 }],
    ['{"error":"M","type":"T","code":"C"}', { message: 'M', type: 'T', code: 'C' }],
    ['{"error":"M"}', { message: 'M' }],
    ['{"error":{"detail":"M"}}', { message: 'M' }],
    ['{"error":{"type":"T"},"message":"M"}', { message: 'M', type: 'T' }],
    ['{"error":{"type":"T"},"detail":"M"}', { message: 'M', type: 'T' }],
    ['{"message":"M","type":"T","code":7}', { message: 'M', type: 'T', code: 7 }],
    ['{"detail":"M"}', { message: 'M' }],
    ['{"detail":[{"msg":"M"}]}', {}],
    ['{"message":"M","detail":"D"}', { message: 'M' }],
    ['"M"', { message: 'M' }],
    ['17', {}],
    ['null', {}],
    ['{"error":17}', {}],
    ['<html>M</html>', {}],
    ['[{"error":{"message":"M"}},{"error":{"message":"N"}}]', { message: 'M' }],
  ];
  for (const [body, upstream] of cases) {
    const error = statusError(404, {}, body);
    t.same(error.upstream, upstream, body);
    t.equal(error.message, 'The provider rejected the request.', 'the message is ours');
  }
});

/** Stops `Date.now`, because dates in headers are compared with it. */
function stopDate(t: Test, now: number): void {
  const real = Date.now;
  Date.now = () => now;
  t.teardown(() => {
    Date.now = real;
  });
}

t.test('the delay before a retry', async (t) => {
  const now = Date.UTC(2026, 0, 1, 12, 0, 0);
  stopDate(t, now);
  const date = (ms: number) => new Date(now + ms).toUTCString();
  const info = (retryDelay: unknown) => ({ error: { details: [null, { '@type': 'Help' }, { retryDelay }] } });
  const resets = (requests?: string, tokens?: string) => ({
    ...(requests !== undefined && { 'x-ratelimit-reset-requests': requests }),
    ...(tokens !== undefined && { 'x-ratelimit-reset-tokens': tokens }),
  });
  const cases: [string, Record<string, string>, unknown, number | undefined][] = [
    ['no delay', {}, undefined, undefined],
    ['seconds', { 'retry-after': '12' }, undefined, 12_000],
    ['no seconds', { 'retry-after': '0' }, undefined, 0],
    ['part of a second', { 'retry-after': '0.25' }, undefined, 250],
    ['part of a millisecond is rounded up', { 'retry-after': '1.0001' }, undefined, 1_001],
    ['spaces', { 'retry-after': ' 12 ' }, undefined, 12_000],
    ['a date', { 'retry-after': date(90_000) }, undefined, 90_000],
    ['a date in the past', { 'retry-after': date(-90_000) }, undefined, 0],
    ['neither seconds nor a date', { 'retry-after': 'soon' }, undefined, undefined],
    ['a negative number', { 'retry-after-ms': '-5' }, undefined, undefined],
    ['milliseconds', { 'retry-after-ms': '250' }, undefined, 250],
    ['no milliseconds', { 'retry-after-ms': '0', 'retry-after': '12' }, undefined, 0],
    ['milliseconds are rounded up', { 'retry-after-ms': '250.2' }, undefined, 251],
    ['milliseconds before seconds', { 'retry-after-ms': '250', 'retry-after': '12' }, undefined, 250],
    ['invalid milliseconds', { 'retry-after-ms': 'x', 'retry-after': '12' }, undefined, 12_000],
    ['milliseconds with a unit', { 'retry-after-ms': '250ms', 'retry-after': '12' }, undefined, 12_000],
    ['the details of Google', {}, info('48s'), 48_000],
    ['fractions', {}, info('1.5s'), 1_500],
    ['details without a delay', {}, { error: { details: [{ '@type': 'Help' }] } }, undefined],
    ['a delay that is no text', {}, info(48), undefined],
    ['a delay without a unit', {}, info('48'), undefined],
    ['details that are no list', {}, { error: { details: { retryDelay: '48s' } } }, undefined],
    ['a header before the details', { 'retry-after': '12' }, info('48s'), 12_000],
    ['the details before the resets', resets('1s'), info('48s'), 48_000],
    ['one reset', resets('120ms'), undefined, 120],
    ['the other reset', resets(undefined, '2m'), undefined, 120_000],
    ['the longer of two resets', resets('120ms', '6m0s'), undefined, 360_000],
    ['the longer of two resets, in any order', resets('1h', '6m30s'), undefined, 3_600_000],
    ['a sum of units', resets('1h2m3s4ms'), undefined, 3_723_004],
    ['fractions of units', resets('7.66s'), undefined, 7_660],
    ['fractions of a millisecond are rounded up', resets('0.5ms'), undefined, 1],
    ['a reset that is a number', resets('60'), undefined, undefined],
    ['a reset with other text', resets('in 6s', 'x6s'), undefined, undefined],
    ['a reset with text behind it', resets('6s later'), undefined, undefined],
  ];
  for (const [name, headers, document, expected] of cases) t.equal(retryDelay(headers, document), expected, name);
  t.equal(retryDelay({ 'retry-after': ['1', '2'] }, undefined), undefined, 'a repeated header is ignored');
});
