import t from 'tap';
import { serializeError } from '../../plugins/http/serialize-error.ts';
import { bellaAt, captureLog, serve, until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { open, readAll } from '../sse-client.ts';
import { completeAnswer, sse, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

const CANARIES = ['CANARY-question', 'CANARY-key', 'CANARY-upstream', 'CANARY-answer', 'CANARY-system'];

t.test('each stream logs one line with its outcome, and logs and metrics contain no secrets', async (t) => {
  const upstream = await startUpstream(t, (call) => {
    const question = JSON.parse(call.body).messages.at(-1).content as string;
    if (question.endsWith('leave')) return unfinishedAnswer('CANARY-answer')(call);
    if (question.endsWith('fail'))
      return void call.response.writeHead(500).end('{"error":{"message":"CANARY-upstream"}}');
    if (question.endsWith('cut')) return void sse(call.response).end(text('CANARY-answer'));
    return completeAnswer('CANARY-answer')(call);
  });
  const { logTo, log } = captureLog();
  const env = bellaAt(upstream.url, { BELLA_API_KEY: 'CANARY-key', STREAM_GRACE_MS: '0' });
  const { url } = await serve(t, { env, logTo });
  const urlOf = (what: string) => `${url}/ask/stream?question=CANARY-question-${what}&system=CANARY-system`;
  const lines = () =>
    log()
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const ended = () => lines().filter(({ msg }) => msg === 'stream ended');

  const { events, response } = await readAll(urlOf('go'));
  await readAll(urlOf('fail'));
  await readAll(urlOf('cut'));
  const leaving = await open(urlOf('leave'));
  await leaving.until('delta');
  leaving.cut();
  await until(() => ended().length === 4, 'four streams have logged their end');
  await fetch(`${url}/CANARY-question?question=CANARY-question`);
  await fetch(`${url}/ask/stream?question=CANARY-question&CANARY-question=1`);
  await fetch(`${url}/ask/stream`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"question":"CANARY-question',
  });

  const [done, failed, cut, left] = ended();
  t.match(done, {
    reqId: response.headers['x-request-id'] as string,
    stream: events[0]?.json.stream,
    owner: 'anybody',
    clientAddress: '127.0.0.1',
    model: 'bella/gpt-4o',
    provider: 'bella',
    upstreamModel: 'gpt-4o',
    outcome: 'ok',
    finishReason: 'stop',
    firstTokenMs: Number,
    durationMs: Number,
    characters: 'CANARY-answer'.length,
  });
  t.match(failed, { outcome: 'upstream_failed', reason: 'http_500', upstreamStatus: 500, characters: 0 });
  t.match(cut, { outcome: 'upstream_truncated', reason: 'truncated' });
  t.match(left, { outcome: 'abandoned', characters: 'CANARY-answer'.length });
  t.match(
    lines().find(({ status }) => status === 404),
    { method: 'GET', route: null, clientAddress: '127.0.0.1' },
    'other requests log a line, too',
  );

  const metrics = await (await fetch(`${url}/metrics`)).text();
  for (const canary of CANARIES) {
    t.notOk(log().includes(canary), `${canary} is not in the log`);
    t.notOk(metrics.includes(canary), `${canary} is not in the metrics`);
  }
  t.notMatch(log(), /"stack"|node_modules/, 'the log contains no stack');
});

t.test('metrics count generations, responses and upstream attempts by outcome', async (t) => {
  const upstream = await startUpstream(t, (call) => {
    const question = JSON.parse(call.body).messages[0].content as string;
    if (question === 'stay') return unfinishedAnswer('a')(call);
    if (question === 'bad') return void sse(call.response).end('data: {]\n\n');
    return completeAnswer('a', 'b')(call);
  });
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
  const value = (name: string, labels = {}) => metricValue(app, name, labels);
  const attempts = (outcome: string) => value('sluice_upstream_attempts_total', { provider: 'bella', outcome });
  const generations = (outcome: string) => value('sluice_generation_seconds_count', { model: 'bella/gpt-4o', outcome });

  t.match((await fetch(`${url}/metrics`)).headers.get('content-type'), 'text/plain');
  await readAll(`${url}/ask/stream?question=q`);
  await readAll(`${url}/ask/stream?question=bad`);
  const staying = await open(`${url}/ask/stream?question=stay`);
  await staying.until('delta');
  t.equal(await value('sluice_generations_active'), 1);
  t.equal(await value('sluice_responses_open'), 1);
  staying.cut();
  await until(() => app.streams.active === 0 && app.responses.open === 0, 'the generation has ended');

  t.equal(await value('sluice_generations_active'), 0);
  t.equal(await value('sluice_responses_open'), 0);
  t.equal(await value('sluice_responses_aborted_total'), 1);
  for (const outcome of ['ok', 'bad_json', 'aborted']) t.equal(await attempts(outcome), 1, `attempts: ${outcome}`);
  t.equal(await value('sluice_time_to_first_token_seconds_count', { provider: 'bella' }), 2);
  for (const outcome of ['ok', 'upstream_protocol', 'abandoned']) {
    t.equal(await generations(outcome), 1, `generations: ${outcome}`);
  }
  t.ok((await value('sluice_events_out_total')) >= 7, 'events out');
  t.ok((await value('sluice_bytes_out_total')) > 1_000, 'bytes out');
});

t.test('an error is logged by its name, code and place, never by its message', (t) => {
  function parseBody() {
    return Object.assign(new TypeError('CANARY'), { code: 'E_BODY' });
  }
  const serialized = serializeError(parseBody());
  t.match(serialized, {
    name: 'TypeError',
    code: 'E_BODY',
    at: /^plugins\/observability\.test\.[jt]s:\d+$/,
    in: 'parseBody',
  });
  t.notMatch(JSON.stringify(serialized), 'CANARY');
  t.same(serializeError(undefined), { name: 'Error', code: undefined, at: undefined, in: undefined });
  t.end();
});
