import t from 'tap';
import { setUp } from './client.ts';
import { FINISH, fake, fault, textPart } from './fake-provider.ts';

/** Tests what operators see of a call: metrics, and the span of a trace. */

function spy() {
  const seen: unknown[] = [];
  const span = {
    headers: undefined,
    firstToken: () => void seen.push('first token'),
    end: (finish: unknown, error?: unknown) => void seen.push(finish ?? error),
  };
  return { seen, span };
}

t.test('a successful call reports its first part, its outcome and its span', async (t) => {
  const { seen, span } = spy();
  const { generate, metric } = setUp([fake('a', [[textPart('x'), textPart('y'), FINISH]])], { span });
  await generate();
  t.same(seen, ['first token', FINISH], 'the span gets one first token and the finish part');
  t.equal(await metric('sluice_upstream_attempts_total', { provider: 'a', outcome: 'ok' }), 1);
  t.equal(await metric('sluice_upstream_attempts_total'), 1);
  t.equal(await metric('sluice_time_to_first_token_seconds_count', { provider: 'a' }), 1);
  t.equal(await metric('sluice_timeouts_total'), 0);
  t.equal(await metric('sluice_parse_errors_total'), 0);
});

t.test('the time to the first token is measured in seconds from the call of the provider', async (t) => {
  const a = fake('a', []);
  let advance = (_: number) => {};
  const slow = {
    ...a,
    async *stream() {
      advance(1_500);
      yield textPart('x');
      advance(9_000);
      yield FINISH;
    },
  };
  const client = setUp([slow]);
  advance = client.clock.advance;
  client.clock.advance(60_000);
  await client.generate();
  t.equal(await client.metric('sluice_time_to_first_token_seconds_sum', { provider: 'a' }), 1.5);
});

t.test('a failed call reports the reason of its failure', async (t) => {
  const timeout = (stage: 'connect' | 'idle') =>
    fault('upstream_timeout', { reason: `${stage}_timeout`, stage, retryable: false });
  const cases: [Error, string, { stage?: string; isParseError?: boolean }][] = [
    [fault('upstream_failed', { reason: 'http_503', retryable: false }), 'http_503', {}],
    [timeout('connect'), 'connect_timeout', { stage: 'connect' }],
    [timeout('idle'), 'idle_timeout', { stage: 'idle' }],
    [fault('upstream_protocol', { reason: 'bad_json', retryable: false }), 'bad_json', { isParseError: true }],
    [fault('upstream_truncated', { reason: 'truncated', retryable: false }), 'truncated', { isParseError: true }],
    [fault('upstream_error', { reason: 'in_band', retryable: false }), 'in_band', {}],
    [new Error('bug'), 'internal', {}],
  ];
  for (const [error, outcome, { stage, isParseError = false }] of cases) {
    const { seen, span } = spy();
    const { generate, metric, metricsText } = setUp([fake('a', [[error]])], { span });
    await generate();
    t.same(seen, [error], `${outcome}: the span gets the error`);
    t.equal(await metric('sluice_upstream_attempts_total', { provider: 'a', outcome }), 1, outcome);
    t.equal(await metric('sluice_upstream_attempts_total'), 1, `${outcome}: one call`);
    t.equal(await metric('sluice_timeouts_total'), stage ? 1 : 0, `${outcome}: timeouts`);
    if (stage) t.equal(await metric('sluice_timeouts_total', { provider: 'a', stage }), 1, `${outcome}: stage`);
    t.equal(
      await metric('sluice_parse_errors_total', { provider: 'a' }),
      isParseError ? 1 : 0,
      `${outcome}: parse errors`,
    );
    t.equal(await metric('sluice_time_to_first_token_seconds_count'), 0, `${outcome}: no first token`);
    t.notMatch(await metricsText(), /undefined/, `${outcome}: no label is undefined`);
  }
});

t.test('an aborted call is reported as aborted', async (t) => {
  const { start, metric } = setUp([fake('a', [['silence']])]);
  (await start()).abort();
  t.equal(await metric('sluice_upstream_attempts_total', { provider: 'a', outcome: 'aborted' }), 1);
});

t.test('each call of a question is reported', async (t) => {
  const { generate, metric } = setUp([fake('a', [[fault('upstream_failed')]]), fake('b', [[FINISH]])]);
  await generate();
  t.equal(await metric('sluice_upstream_attempts_total', { provider: 'a', outcome: 'r' }), 1);
  t.equal(await metric('sluice_upstream_attempts_total', { provider: 'b', outcome: 'ok' }), 1);
});
