import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { bellaAt, serve, until, writeConfig } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { deltaText, open, type Reading, readAll } from '../sse-client.ts';
import { completeAnswer, DONE, STOP, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

/** Tests that a stream outlives its connection: resume, stop, sharing by key, and grace time. */

const UUID = '0d9f4d5a-9d7e-4c57-8f3f-0a4a4f7b6f11';
const lastId = (reading: Reading) => reading.events.at(-1)?.id as string;
const resumeFrom = (id: string) => ({ headers: { 'last-event-id': id } });

/** Starts a stream whose answer is `one two ` so far, with one reader. */
async function startStream(t: Test, env: Record<string, string> = {}) {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const askUrl = `${url}/ask/stream?question=q`;
  const reading = await open(askUrl);
  await reading.until('delta');
  const finish = async (rest: string, n = 1) => (await upstream.call(n)).response.end(text(rest) + STOP + DONE);
  return { upstream, app, url, askUrl, reading, finish };
}

t.test('a resume continues directly behind its Last-Event-ID, on every SSE path', async (t) => {
  const { upstream, url, askUrl, reading, finish } = await startStream(t);
  const id = lastId(reading);
  const stream = reading.events[0]?.json.stream as string;
  reading.cut();
  const resumedReadings = await Promise.all([
    open(askUrl, resumeFrom(id)),
    open(`${url}/streams/${stream}`, resumeFrom(id)),
    open(`${url}/streams/${stream}?lastEventId=${id}`),
    open(`${askUrl}&lastEventId=${stream}.0`, resumeFrom(id)),
    open(`${url}/ask/stream`, { body: { question: 'q' }, ...resumeFrom(id) }),
  ]);
  await finish('three');
  for (const resumed of resumedReadings) {
    await resumed.until('end');
    t.equal(deltaText(resumed), 'three', 'only the new text is delivered');
    t.notOk(
      resumed.events.some(({ json }) => json.type === 'start'),
      'no second start event',
    );
    t.ok(resumed.retry, 'a retry field');
    t.equal(resumed.events.at(-1)?.json.answer, 'one two three');
    t.equal(lastId(resumed), `${stream}.end`);
  }
  const fromStart = await readAll(`${url}/streams/${stream}`);
  t.same(
    fromStart.events.map(({ json }) => json.type),
    ['start', 'delta', 'end'],
    'a reader after the end gets the text in one delta',
  );
  t.equal(fromStart.events[0]?.json.url, `/streams/${stream}`);
  t.equal((await readAll(askUrl, resumeFrom(`${stream}.end`))).response.statusCode, 204);
  t.equal((await readAll(`${url}/streams/${stream}`, resumeFrom(`${stream}.end`))).response.statusCode, 204);
  const middle = await readAll(askUrl, resumeFrom(`${stream}.2`));
  t.equal(deltaText(middle), 'e two three', 'a resume works from any position');
  t.equal(upstream.calls.length, 1, 'one upstream call');
});

t.test('an unknown or invalid resume point is rejected and starts no generation', async (t) => {
  const { upstream, url, askUrl, reading, finish } = await startStream(t);
  await finish('three');
  await reading.until('end');
  const stream = reading.events[0]?.json.stream as string;
  const unknown = 'AAAAAAAAAAAAAAAAAAAAAA';
  for (const id of [`${unknown}.5`, `${stream}.999999`]) {
    const { events, response } = await readAll(askUrl, resumeFrom(id));
    t.equal(response.statusCode, 200, 'an EventSource gets 200');
    t.match(events, [
      { id: `${id.slice(0, 22)}.end`, json: { type: 'error', code: 'stream_unknown', retryable: false } },
    ]);
  }
  t.equal(
    (await readAll(askUrl, resumeFrom(`${unknown}.end`))).response.statusCode,
    204,
    'a resume point with .end gets 204, even for an unknown stream',
  );
  for (const id of [
    'x',
    `${stream}.-1`,
    `${stream}.`,
    `${stream}.1.2`,
    `${stream}.1e3`,
    'x'.repeat(1_000),
    `${stream}.${'9'.repeat(30)}`,
  ]) {
    const reading = await readAll(askUrl, resumeFrom(id));
    t.equal(reading.response.statusCode, 400, `invalid: ${id.slice(0, 40)}`);
  }
  const twice = await readAll(askUrl, { headers: { 'last-event-id': [`${stream}.1`, `${stream}.2`] } });
  t.equal(twice.response.statusCode, 400, 'two Last-Event-ID headers are rejected');
  t.equal((await readAll(`${url}/streams/${unknown}`)).response.statusCode, 404);
  t.equal((await readAll(`${url}/streams/%00`)).response.statusCode, 404);
  t.equal((await readAll(`${url}/streams/${stream}`, resumeFrom(`${unknown}.1`))).response.statusCode, 400);
  t.equal(upstream.calls.length, 1, 'no second upstream call');
});

t.test('concurrent questions with one key share one stream, also after a reload and after the end', async (t) => {
  const { upstream, url, finish } = await startStream(t);
  const keyedUrl = `${url}/ask/stream?question=hello&key=${UUID}`;
  const [first, second] = await Promise.all([open(keyedUrl), open(keyedUrl)]);
  await Promise.all([first.until('delta'), second.until('delta')]);
  first.cut();
  const reloaded = await open(keyedUrl);
  await reloaded.until('delta');
  await finish('three', 2);
  for (const reading of [second, reloaded]) {
    t.equal((await reading.until('end')).json.answer, 'one two three');
    t.equal(deltaText(reading), 'one two three');
    t.equal(reading.events[0]?.json.stream, first.events[0]?.json.stream);
  }
  t.equal((await readAll(keyedUrl)).events.at(-1)?.json.answer, 'one two three', 'a question after the end');
  t.equal((await readAll(`${url}/ask/stream?question=other&key=${UUID}`)).response.statusCode, 409, 'another question');
  t.equal(upstream.calls.length, 2, 'one upstream call for the key');
});

t.test('POST /streams starts a stream, once for each idempotency key', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('yes'));
  const { url } = await serve(t, { env: { ...bellaAt(upstream.url), BASE_PATH: '/ai' } });
  const post = (body: unknown, headers = {}) => postJson(`${url}/ai/streams`, body, headers);
  const streamOf = async (response: Response) =>
    (await response.json()) as { id: string; url: string; expiresAt: string };

  const response = await post({ messages: [{ role: 'user', content: 'q' }] });
  const started = await streamOf(response);
  t.equal(response.status, 201);
  t.equal(response.headers.get('location'), started.url);
  t.equal(started.url, `/ai/streams/${started.id}`);
  t.ok(Date.parse(started.expiresAt) > Date.now());
  t.equal((await readAll(`${url}${started.url}`)).events.at(-1)?.json.answer, 'yes');

  const key = { 'idempotency-key': 'order-66' };
  const concurrent = await Promise.all(Array.from({ length: 10 }, () => post({ question: 'a' }, key).then(streamOf)));
  t.equal(new Set(concurrent.map(({ id }) => id)).size, 1, 'ten concurrent questions with one key get one stream');
  t.equal((await post({ question: 'b' }, key)).status, 409, 'another question with the key');
  t.equal(
    (await post({ question: 'b' }, { 'idempotency-key': 'x'.repeat(256) })).status,
    400,
    'a key that is too long',
  );
  t.equal((await post({})).status, 400, 'no question');
  await until(() => upstream.calls.length === 2, 'the upstream has two calls');
});

t.test('a stop cancels the upstream call, and every reader gets the end', async (t) => {
  for (const method of ['DELETE', 'POST']) {
    const { upstream, url, reading } = await startStream(t);
    const stream = reading.events[0]?.json.stream as string;
    const other = await open(`${url}/streams/${stream}`);
    await other.until('delta');
    const stopUrl = method === 'POST' ? `${url}/streams/${stream}/stop` : `${url}/streams/${stream}`;
    const stop = () =>
      fetch(stopUrl, {
        method,
        ...(method === 'POST' && { body: 'a beacon', headers: { 'content-type': 'text/plain' } }),
      });
    t.equal((await stop()).status, 204);
    for (const reader of [reading, other]) {
      t.match((await reader.until('end')).json, { finishReason: 'stopped', answer: 'one two ' });
    }
    await upstream.calls[0]?.closed;
    t.equal(upstream.calls[0]?.finished, false, 'the upstream call was cancelled');
    t.equal((await stop()).status, 204, 'a second stop succeeds');
    const late = await readAll(`${url}/streams/${stream}`);
    t.match(late.events.at(-1)?.json, { finishReason: 'stopped', answer: 'one two ' });
    t.equal(
      (await fetch(stopUrl.replace(stream, 'AAAAAAAAAAAAAAAAAAAAAA'), { method })).status,
      404,
      'an unknown stream',
    );
  }
});

t.test('a stop ignores the body and the content type', async (t) => {
  const { url, reading } = await startStream(t);
  const path = `${url}/streams/${reading.events[0]?.json.stream}`;
  const types = ['application/json', 'text/plain', ';;', 'multipart/form-data'];
  for (const type of types) {
    for (const [method, target] of [
      ['DELETE', path],
      ['POST', `${path}/stop`],
    ] as const) {
      t.equal((await fetch(target, { method, headers: { 'content-type': type } })).status, 204, `${method} ${type}`);
      t.equal(
        (await fetch(target, { method, body: '{', headers: { 'content-type': type } })).status,
        204,
        `${method} ${type} and a body`,
      );
    }
  }
});

t.test('the order of the fields does not change the question of an idempotency key', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('yes'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const statusOf = async (body: object) => (await postJson(`${url}/streams`, body, { 'idempotency-key': 'k1' })).status;
  t.equal(await statusOf({ question: 'a', temperature: 1, maxTokens: 5 }), 201);
  t.equal(await statusOf({ maxTokens: 5, question: 'a', temperature: 1 }), 201, 'another order');
  t.equal(await statusOf({ maxTokens: 6, question: 'a', temperature: 1 }), 409, 'another value');
});

t.test('pipelined questions on a connection that is cut are cancelled', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.write('GET /ask/stream?question=q HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(3));
  await upstream.call(3);
  await until(() => app.responses.open === 3, 'three responses are open');
  socket.destroy();
  await until(
    () => app.responses.open === 0 && app.streams.active === 0,
    'no response is open and no generation is running',
  );
  await Promise.all(upstream.calls.map((call) => call.closed));
  t.pass('the upstream calls are closed');
});

t.test('a reader that stalls while it gets an ended stream is disconnected', async (t) => {
  const upstream = await startUpstream(t, completeAnswer(...Array(70).fill('x'.repeat(100_000))));
  const env = { STREAM_MAX_CHARS: '100000000', CONFIG_FILE: writeConfig(t, 'streams: { stallMs: 300 }') };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const whole = await readAll(`${url}/ask/stream?question=q&key=k1`);
  const stream = whole.events[0]?.json.stream as string;
  const slow = await open(`${url}/streams/${stream}`, resumeFrom(`${stream}.6999999`));
  slow.response.pause();
  await until(() => app.responses.open === 0, 'the stalled reader is disconnected');
  t.equal(await metricValue(app, 'sluice_responses_stalled_total'), 1, 'counted as stalled');
  t.equal(await metricValue(app, 'sluice_responses_aborted_total'), 0, 'not counted as aborted');
  slow.cut();
});

t.test('HEAD, prefetches and other paths start no generation', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  t.equal((await fetch(`${url}/ask/stream?question=q`, { method: 'HEAD' })).status, 405);
  for (const headers of [
    { 'sec-purpose': 'prefetch' },
    { 'sec-purpose': 'prefetch;prerender' },
    { purpose: 'prefetch' },
  ]) {
    t.equal((await fetch(`${url}/ask/stream?question=q`, { headers })).status, 204, JSON.stringify(headers));
  }
  for (const path of ['/', '/livez', '/readyz', '/metrics', '/streams', '/streams/AAAAAAAAAAAAAAAAAAAAAA'])
    await fetch(url + path);
  await readAll(`${url}/ask/stream?question=q`);
  t.equal(upstream.calls.length, 1, 'only the GET of a question calls the upstream');
});

t.test('without readers the generation continues for the grace time, then it is abandoned', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const clock = manualClock();
  const env = { STREAM_GRACE_MS: '15000', CONFIG_FILE: writeConfig(t, 'deadlines: { idleMs: 600000 }') };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env), clock });
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('delta');
  const stream = reading.events[0]?.json.stream as string;
  t.equal(reading.events[0]?.json.resumable, true);
  const id = lastId(reading);
  reading.cut();
  await until(() => app.responses.open === 0, 'the reader is disconnected');
  clock.advance(14_999);
  t.equal(app.streams.active, 1, 'running until the grace time ends');
  const resumed = await open(`${url}/streams/${stream}`, resumeFrom(id));
  await until(() => app.responses.open === 1, 'the reader has resumed');
  clock.advance(5_000);
  t.equal(app.streams.active, 1, 'a reader that has resumed ends the grace time');
  resumed.cut();
  await until(() => app.responses.open === 0, 'the reader is disconnected again');
  clock.advance(15_000);
  t.equal(app.streams.active, 0, 'abandoned');
  await upstream.calls[0]?.closed;
  const { events } = await readAll(`${url}/streams/${stream}`, resumeFrom(id));
  t.match(events.at(-1)?.json, { type: 'error', code: 'abandoned' });
});

t.test('a stream that is never read is abandoned after the grace time, or after 10 s without grace time', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  for (const [graceMs, abandonedAfterMs] of [
    ['0', 10_000],
    ['3000', 3_000],
  ] as const) {
    const clock = manualClock();
    const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: graceMs }), clock });
    await postJson(`${url}/streams`, { question: 'q' });
    clock.advance(abandonedAfterMs - 1);
    t.equal(app.streams.active, 1, `grace time ${graceMs} ms: running`);
    clock.advance(1);
    t.equal(app.streams.active, 0, `grace time ${graceMs} ms: abandoned`);
  }
});

t.test('a POST has grace time only with resumable: true', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url) });
  const reading = await open(`${url}/ask/stream`, { body: { question: 'q' } });
  await reading.until('delta');
  t.equal(reading.events[0]?.json.resumable, false);
  reading.cut();
  await (await upstream.call(1)).closed; // Cancelled without grace time.
  const resumable = await open(`${url}/ask/stream`, { body: { question: 'q', resumable: true } });
  await resumable.until('delta');
  resumable.cut();
  await until(() => app.responses.open === 0, 'the reader is disconnected');
  t.equal(app.streams.active, 1, 'the generation continues');
});

t.test('above MAX_GENERATIONS an EventSource gets an error event, other clients get 503', async (t) => {
  const { askUrl, url, reading } = await startStream(t, { MAX_GENERATIONS: '1' });
  const { response, events } = await readAll(askUrl);
  t.equal(response.statusCode, 200, 'an EventSource gets 200, since it does not retry after an error status');
  t.match(events, [{ json: { type: 'error', code: 'overloaded', retryable: true, retryAfter: Number } }]);
  t.equal(
    (await readAll(askUrl, resumeFrom(events[0]?.id as string))).response.statusCode,
    204,
    'the reconnect of the EventSource gets 204',
  );
  const plain = await readAll(askUrl, { headers: { accept: '*/*' } });
  t.equal(plain.response.statusCode, 503);
  t.ok(Number(plain.response.headers['retry-after']) > 0);
  t.equal((await readAll(`${url}/ask/stream`, { body: { question: 'q' } })).response.statusCode, 503);
  const resumed = await open(askUrl, resumeFrom(lastId(reading)));
  t.equal(resumed.response.statusCode, 200);
  t.ok(resumed.response.headers['content-type']?.startsWith('text/event-stream'), 'a resume is accepted');
});

t.test('a stalled reader is disconnected and can resume, other readers are not affected', async (t) => {
  const piece = 'x'.repeat(20_000);
  const upstream = await startUpstream(t, ({ response }) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    let left = 600;
    const sendMore = () => {
      while (left-- > 0 && !response.destroyed) {
        if (!response.write(text(piece))) return void response.once('drain', sendMore);
      }
      response.end(STOP + DONE);
    };
    sendMore();
  });
  const env = { STREAM_MAX_CHARS: '100000000', CONFIG_FILE: writeConfig(t, 'streams: { stallMs: 400 }') };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const slow = await open(`${url}/ask/stream?question=q`);
  await slow.until('start');
  slow.response.pause();
  const stream = slow.events[0]?.json.stream as string;
  const fast = await open(`${url}/streams/${stream}`);
  const { json } = await fast.until('end');
  t.equal(json.answer.length, 600 * piece.length);
  await until(() => app.responses.open === 0, 'the slow reader is disconnected');
  t.equal(await metricValue(app, 'sluice_responses_stalled_total'), 1, 'counted as stalled');
  slow.response.resume();
  t.equal(await slow.ended, false, 'the response is incomplete');
  const rest = await readAll(`${url}/streams/${stream}`, resumeFrom(lastId(slow)));
  t.equal(deltaText(slow).length + deltaText(rest).length, json.answer.length, 'every character is delivered once');
});
