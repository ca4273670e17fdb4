import t, { type Test } from 'tap';
import { bellaAt, captureLog, serve, until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { open } from '../sse-client.ts';
import { startUpstream, text } from '../upstream.ts';

/** Tests how a refusal of the provider reaches clients, the log and the metrics. */

const TOO_LONG = {
  code: 'context_length_exceeded',
  type: 'invalid_request_error',
  param: 'messages',
  message: 'SECRET',
};
const MESSAGES = [{ role: 'user', content: 'q' }];

/** Starts a service whose provider refuses, with a status or inside a stream. */
async function startService(t: Test, status: number, error: object, isInBand = false) {
  const upstream = await startUpstream(t, ({ response }) => {
    if (!isInBand) return void response.writeHead(status).end(JSON.stringify({ error }));
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(`${text('partial')}data: ${JSON.stringify({ error })}\n\n`);
  });
  const { logTo, log } = captureLog();
  const { app, url } = await serve(t, { env: bellaAt(upstream.url), logTo });
  const post = (body: object = {}) => postJson(`${url}/v1/chat/completions`, { messages: MESSAGES, ...body });
  return { app, url, log, post };
}

async function lastEvent(url: string) {
  const { events, ended } = await open(`${url}/ask/stream?question=q`);
  await ended;
  return events.at(-1)?.json;
}

t.test('the error event has the reason, and the log line and a metric name it', async (t) => {
  const { app, url, log } = await startService(t, 400, TOO_LONG);
  const event = await lastEvent(url);
  t.match(event, { type: 'error', code: 'upstream_rejected', reason: 'context_length_exceeded', retryable: false });
  t.same(Object.keys(event).sort(), ['code', 'message', 'reason', 'retryable', 'type'], 'and nothing else');
  await until(() => log().includes('stream ended'), 'the stream is logged');
  const line = JSON.parse(
    log()
      .split('\n')
      .find((one) => one.includes('stream ended')) ?? '{}',
  );
  t.match(line, { reason: 'http_400', refusal: 'context_length_exceeded', param: 'messages', upstreamStatus: 400 });
  const labels = { provider: 'bella', reason: 'context_length_exceeded' };
  t.equal(await metricValue(app, 'sluice_upstream_refusals_total', labels), 1);
  t.notMatch(log() + JSON.stringify(event), /SECRET/);
});

t.test('/v1 has the reason as code, with its param', async (t) => {
  const cases: [status: number, error: object, expected: object, answered: number][] = [
    [400, TOO_LONG, { code: 'context_length_exceeded', type: 'invalid_request_error', param: 'messages' }, 400],
    [
      400,
      { code: 'unsupported_value', param: 'max_output_tokens' },
      { code: 'unsupported_parameter', type: 'invalid_request_error', param: 'max_tokens' },
      400,
    ],
    [404, { code: 'model_not_found' }, { code: 'model_not_found', type: 'invalid_request_error', param: null }, 404],
    [401, {}, { code: 'credentials', type: 'server_error', param: null }, 403],
    [429, { code: 'insufficient_quota' }, { code: 'quota_exhausted', type: 'rate_limit_error', param: null }, 402],
    [400, {}, { code: 'upstream_rejected', type: 'invalid_request_error', param: null }, 400],
  ];
  for (const [status, error, expected, answered] of cases) {
    for (const stream of [false, true]) {
      const { post } = await startService(t, status, error);
      const response = await post({ stream });
      const name = `${status} ${JSON.stringify(error)}, ${stream ? 'streamed' : 'whole'}`;
      t.equal(response.status, answered, name);
      t.equal(response.headers.get('x-should-retry'), 'false', `${name}: the SDK does not retry`);
      t.match(((await response.json()) as { error: object }).error, expected, name);
    }
  }
});

t.test('a refusal inside a stream has the same fields in every API', async (t) => {
  const { url, post } = await startService(t, 200, TOO_LONG, true);
  t.match(await lastEvent(url), { code: 'upstream_error', reason: 'context_length_exceeded' });
  const streamed = await open(`${url}/v1/chat/completions`, { body: { messages: MESSAGES, stream: true } });
  t.equal(await streamed.ended, false, 'the response is cut, so that nobody takes it for whole');
  const last = streamed.events.at(-1)?.json;
  const expected = { code: 'context_length_exceeded', param: 'messages', type: 'invalid_request_error' };
  t.match(last.error, expected, 'the last event of a stream');
  const whole = await post();
  t.equal(whole.status, 400);
  t.match(((await whole.json()) as { error: object }).error, expected, 'a whole answer');
});

t.test('while the only key is without quota, the reason stays the same', async (t) => {
  const { post } = await startService(t, 429, { code: 'insufficient_quota' });
  for (const status of [402, 402]) {
    const response = await post();
    t.equal(response.status, status);
    t.match(await response.json(), { error: { code: 'quota_exhausted' } });
  }
});
