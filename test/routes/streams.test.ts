import { connect } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { bellaAt, serve, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { deltaText, open, type Reading, readAll } from '../sse-client.ts';
import { completeAnswer, DONE, STOP, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

/** A stream outlives its connection: resume, stop, share, and never ask twice. */

const UUID = '0d9f4d5a-9d7e-4c57-8f3f-0a4a4f7b6f11';
const lastId = (reading: Reading) => reading.events.at(-1)?.id as string;
const resuming = (id: string) => ({ headers: { 'last-event-id': id } });

async function begun(t: Test, env: Record<string, string> = {}) {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const ask = `${url}/ask/stream?question=q`;
  const reading = await open(ask);
  await reading.until('delta');
  const finish = async (rest: string, n = 1) => (await upstream.call(n)).response.end(text(rest) + STOP + DONE);
  return { upstream, app, url, ask, reading, finish };
}

t.test('a reconnect goes on right behind its Last-Event-ID, on every SSE path', async (t) => {
  const { upstream, url, ask, reading, finish } = await begun(t);
  const id = lastId(reading);
  const stream = reading.events[0]?.json.stream as string;
  reading.cut();
  const again = await Promise.all([
    open(ask, resuming(id)),
    open(`${url}/streams/${stream}`, resuming(id)),
    open(`${url}/streams/${stream}?lastEventId=${id}`),
    open(`${ask}&lastEventId=${stream}.0`, resuming(id)),
    open(`${url}/ask/stream`, { body: { question: 'q' }, ...resuming(id) }),
  ]);
  await finish('three');
  for (const resumed of again) {
    await resumed.until('end');
    t.equal(deltaText(resumed), 'three', 'only what is new');
    t.notOk(
      resumed.events.some(({ json }) => json.type === 'start'),
      'no second start',
    );
    t.ok(resumed.retry, 'but a retry at once');
    t.equal(resumed.events.at(-1)?.json.answer, 'one two three');
    t.equal(lastId(resumed), `${stream}.end`);
  }
  const fromStart = await readAll(`${url}/streams/${stream}`);
  t.same(
    fromStart.events.map(({ json }) => json.type),
    ['start', 'delta', 'end'],
    'a late reader gets one delta',
  );
  t.equal(fromStart.events[0]?.json.url, `/streams/${stream}`);
  t.equal((await readAll(ask, resuming(`${stream}.end`))).response.statusCode, 204);
  t.equal((await readAll(`${url}/streams/${stream}`, resuming(`${stream}.end`))).response.statusCode, 204);
  const middle = await readAll(ask, resuming(`${stream}.2`));
  t.equal(deltaText(middle), 'e two three', 'any position is a place');
  t.equal(upstream.calls.length, 1, 'asked once');
});

t.test('what is gone, or was never there', async (t) => {
  const { upstream, url, ask, reading, finish } = await begun(t);
  await finish('three');
  await reading.until('end');
  const stream = reading.events[0]?.json.stream as string;
  const unknown = 'AAAAAAAAAAAAAAAAAAAAAA';
  for (const id of [`${unknown}.5`, `${stream}.999999`]) {
    const { events, response } = await readAll(ask, resuming(id));
    t.equal(response.statusCode, 200);
    t.match(events, [
      { id: `${id.slice(0, 22)}.end`, json: { type: 'error', code: 'stream_unknown', retryable: false } },
    ]);
  }
  t.equal((await readAll(ask, resuming(`${unknown}.end`))).response.statusCode, 204, 'without a look-up');
  for (const id of [
    'x',
    `${stream}.-1`,
    `${stream}.`,
    `${stream}.1.2`,
    `${stream}.1e3`,
    'x'.repeat(1_000),
    `${stream}.${'9'.repeat(30)}`,
  ]) {
    const reading = await readAll(ask, resuming(id));
    t.equal(reading.response.statusCode, 400, id.slice(0, 40));
  }
  const twice = await readAll(ask, { headers: { 'last-event-id': [`${stream}.1`, `${stream}.2`] } });
  t.equal(twice.response.statusCode, 400, 'sent twice');
  t.equal((await readAll(`${url}/streams/${unknown}`)).response.statusCode, 404);
  t.equal((await readAll(`${url}/streams/%00`)).response.statusCode, 404);
  t.equal((await readAll(`${url}/streams/${stream}`, resuming(`${unknown}.1`))).response.statusCode, 400);
  t.equal(upstream.calls.length, 1, 'never a second generation');
});

t.test('one key is one stream, whoever comes first', async (t) => {
  const { upstream, url, finish } = await begun(t);
  const keyed = `${url}/ask/stream?question=hello&key=${UUID}`;
  const [one, two] = await Promise.all([open(keyed), open(keyed)]);
  await Promise.all([one.until('delta'), two.until('delta')]);
  one.cut();
  const reloaded = await open(keyed);
  await reloaded.until('delta');
  await finish('three', 2);
  for (const reading of [two, reloaded]) {
    t.equal((await reading.until('end')).json.answer, 'one two three');
    t.equal(deltaText(reading), 'one two three');
    t.equal(reading.events[0]?.json.stream, one.events[0]?.json.stream);
  }
  t.equal((await readAll(keyed)).events.at(-1)?.json.answer, 'one two three', 'and after the end');
  t.equal((await readAll(`${url}/ask/stream?question=other&key=${UUID}`)).response.statusCode, 409);
  t.equal(upstream.calls.length, 2, 'one call for the key');
});

t.test('POST /streams', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('yes'));
  const { url } = await serve(t, { env: { ...bellaAt(upstream.url), BASE_PATH: '/ai' } });
  const post = (body: unknown, headers: Record<string, string> = {}) =>
    fetch(`${url}/ai/streams`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json', ...headers },
    });
  const json = async (response: Response) => (await response.json()) as { id: string; url: string; expiresAt: string };

  const response = await post({ messages: [{ role: 'user', content: 'q' }] });
  const started = await json(response);
  t.equal(response.status, 201);
  t.equal(response.headers.get('location'), started.url);
  t.equal(started.url, `/ai/streams/${started.id}`);
  t.ok(Date.parse(started.expiresAt) > Date.now());
  t.equal((await readAll(`${url}${started.url}`)).events.at(-1)?.json.answer, 'yes');

  const key = { 'idempotency-key': 'order 66'.replace(' ', '-') };
  const racing = await Promise.all(Array.from({ length: 10 }, () => post({ question: 'a' }, key).then(json)));
  t.equal(new Set(racing.map(({ id }) => id)).size, 1, 'ten equal keys, one stream');
  t.equal((await post({ question: 'b' }, key)).status, 409);
  t.equal((await post({ question: 'b' }, { 'idempotency-key': 'x'.repeat(256) })).status, 400);
  t.equal((await post({})).status, 400);
  await until(() => upstream.calls.length === 2, 'the calls');
  t.equal(upstream.calls.length, 2);
});

t.test('a stop ends the call at once, and every reader is told', async (t) => {
  for (const how of ['DELETE', 'POST']) {
    const { upstream, url, reading } = await begun(t);
    const stream = reading.events[0]?.json.stream as string;
    const other = await open(`${url}/streams/${stream}`);
    await other.until('delta');
    const path = how === 'POST' ? `${url}/streams/${stream}/stop` : `${url}/streams/${stream}`;
    const stop = () =>
      fetch(path, {
        method: how,
        ...(how === 'POST' && { body: 'a beacon', headers: { 'content-type': 'text/plain' } }),
      });
    t.equal((await stop()).status, 204);
    for (const one of [reading, other]) {
      t.match((await one.until('end')).json, { finishReason: 'stopped', answer: 'one two ' });
    }
    await upstream.calls[0]?.closed;
    t.equal(upstream.calls[0]?.finished, false, 'the upstream call was cut');
    t.equal((await stop()).status, 204, 'idempotent');
    const late = await readAll(`${url}/streams/${stream}`);
    t.match(late.events.at(-1)?.json, { finishReason: 'stopped', answer: 'one two ' });
    t.equal((await fetch(path.replace(stream, 'AAAAAAAAAAAAAAAAAAAAAA'), { method: how })).status, 404);
  }
});

t.test('a stop looks at no body and no content type', async (t) => {
  const { url, reading } = await begun(t);
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

t.test('one key, its body in another order', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('yes'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const post = async (body: string) => {
    const headers = { 'content-type': 'application/json', 'idempotency-key': 'k1' };
    return (await fetch(`${url}/streams`, { method: 'POST', body, headers })).status;
  };
  t.equal(await post('{"question":"a","temperature":1,"maxTokens":5}'), 201);
  t.equal(await post('{"maxTokens":5,"question":"a","temperature":1}'), 201);
  t.equal(await post('{"maxTokens":6,"question":"a","temperature":1}'), 409);
});

t.test('pipelined questions on a connection that is cut leave nothing', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.write('GET /ask/stream?question=q HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3));
  await upstream.call(3);
  await until(() => app.responses.open === 3, 'three responses');
  socket.destroy();
  await until(() => app.responses.open === 0 && app.streams.active === 0, 'nothing is left');
  await Promise.all(upstream.calls.map((call) => call.closed));
  t.pass('and the upstream calls are closed');
});

t.test('a reader that stops reading behind the last event is cut off, too', async (t) => {
  const upstream = await startUpstream(t, completeAnswer(...Array(70).fill('x'.repeat(100_000))));
  const dir = t.testdir({ 'c.yaml': 'streams: { stallMs: 300 }' });
  const env = { STREAM_MAX_CHARS: '100000000', CONFIG_FILE: `${dir}/c.yaml` };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const whole = await readAll(`${url}/ask/stream?question=q&key=k1`);
  const stream = whole.events[0]?.json.stream as string;
  const slow = await open(`${url}/streams/${stream}`, resuming(`${stream}.6999999`));
  slow.response.pause();
  await until(() => app.responses.open === 0, 'it is cut off');
  const metrics = await (await fetch(`${url}/metrics`)).text();
  t.match(metrics, /sluice_responses_stalled_total 1/);
  t.match(metrics, /sluice_responses_aborted_total 0/, 'and counted once');
  slow.cut();
});

t.test('nothing is started by HEAD, by a prefetch, or by any other path', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  t.equal((await fetch(`${url}/ask/stream?question=q`, { method: 'HEAD' })).status, 405);
  for (const headers of [
    { 'sec-purpose': 'prefetch' },
    { 'sec-purpose': 'prefetch;prerender' },
    { purpose: 'prefetch' },
  ]) {
    t.equal((await fetch(`${url}/ask/stream?question=q`, { headers })).status, 204);
  }
  for (const path of ['/', '/livez', '/readyz', '/metrics', '/streams', '/streams/AAAAAAAAAAAAAAAAAAAAAA'])
    await fetch(url + path);
  await turn();
  t.equal(upstream.calls.length, 0);
});

t.test('grace: the call goes on without readers, and no longer', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const clock = manualClock();
  const dir = t.testdir({ 'c.yaml': 'deadlines: { idleMs: 600000 }' });
  const env = { STREAM_GRACE_MS: '15000', CONFIG_FILE: `${dir}/c.yaml` };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env), clock });
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('delta');
  const stream = reading.events[0]?.json.stream as string;
  t.equal(reading.events[0]?.json.resumable, true);
  const id = lastId(reading);
  reading.cut();
  await until(() => app.responses.open === 0, 'the reader has gone');
  clock.advance(14_999);
  t.equal(app.streams.active, 1, 'still running');
  const back = await open(`${url}/streams/${stream}`, resuming(id));
  await until(() => app.responses.open === 1, 'it is back');
  clock.advance(5_000);
  t.equal(app.streams.active, 1, 'a reader that is back stops the clock');
  back.cut();
  await until(() => app.responses.open === 0, 'it has gone again');
  clock.advance(15_000);
  t.equal(app.streams.active, 0);
  await upstream.calls[0]?.closed;
  const { events } = await readAll(`${url}/streams/${stream}`, resuming(id));
  t.match(events.at(-1)?.json, { type: 'error', code: 'abandoned' });
});

t.test('a stream that nobody ever reads', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  for (const [graceMs, waits] of [
    ['0', 10_000],
    ['3000', 3_000],
  ] as const) {
    const clock = manualClock();
    const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: graceMs }), clock });
    const body = JSON.stringify({ question: 'q' });
    await fetch(`${url}/streams`, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
    clock.advance(waits - 1);
    t.equal(app.streams.active, 1);
    clock.advance(1);
    t.equal(app.streams.active, 0);
  }
});

t.test('a client that cannot resume does not pay for grace, one that says it can does', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url) });
  const reading = await open(`${url}/ask/stream`, { body: { question: 'q' } });
  await reading.until('delta');
  t.equal(reading.events[0]?.json.resumable, false);
  reading.cut();
  await (await upstream.call(1)).closed;
  const staying = await open(`${url}/ask/stream`, { body: { question: 'q', resumable: true } });
  await staying.until('delta');
  staying.cut();
  await until(() => app.responses.open === 0, 'it has gone');
  t.equal(app.streams.active, 1);
});

t.test('too many answers: refused in words that each client understands', async (t) => {
  const { ask, url, reading } = await begun(t, { MAX_GENERATIONS: '1' });
  const { response, events } = await readAll(ask);
  t.equal(response.statusCode, 200, 'an EventSource gives up on anything else');
  t.match(events, [{ json: { type: 'error', code: 'overloaded', retryable: true, retryAfter: Number } }]);
  t.equal((await readAll(ask, resuming(events[0]?.id as string))).response.statusCode, 204, 'its reconnect ends there');
  const plain = await readAll(ask, { headers: { accept: '*/*' } });
  t.equal(plain.response.statusCode, 503);
  t.ok(Number(plain.response.headers['retry-after']) > 0);
  t.equal((await readAll(`${url}/ask/stream`, { body: { question: 'q' } })).response.statusCode, 503);
  const resumed = await open(ask, resuming(lastId(reading)));
  t.equal(resumed.response.statusCode, 200);
  t.ok(resumed.response.headers['content-type']?.startsWith('text/event-stream'), 'a resume is no new question');
});

t.test('a reader that takes nothing is cut off, others are not, and it can resume', async (t) => {
  const piece = 'x'.repeat(20_000);
  const upstream = await startUpstream(t, ({ response }) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    let left = 600;
    const more = () => {
      while (left-- > 0 && !response.destroyed) {
        if (!response.write(text(piece))) return void response.once('drain', more);
      }
      response.end(STOP + DONE);
    };
    more();
  });
  const dir = t.testdir({ 'c.yaml': 'streams: { stallMs: 400 }' });
  const env = { STREAM_MAX_CHARS: '100000000', CONFIG_FILE: `${dir}/c.yaml` };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const slow = await open(`${url}/ask/stream?question=q`);
  await slow.until('start');
  slow.response.pause();
  const stream = slow.events[0]?.json.stream as string;
  const quick = await open(`${url}/streams/${stream}`);
  const { json } = await quick.until('end');
  t.equal(json.answer.length, 600 * piece.length);
  await until(() => app.responses.open === 0, 'the slow one is cut off');
  const seen = await (await fetch(`${url}/metrics`)).text();
  t.match(seen, /sluice_responses_stalled_total 1/);
  slow.response.resume();
  t.equal(await slow.ended, false, 'cut');
  const rest = await readAll(`${url}/streams/${stream}`, resuming(lastId(slow)));
  t.equal(deltaText(slow).length + deltaText(rest).length, json.answer.length, 'nothing lost, nothing twice');
});
