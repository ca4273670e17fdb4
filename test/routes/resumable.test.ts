import { request } from 'node:http';
import t from 'tap';
import { bellaAt, serve, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { startUpstream, unfinishedAnswer } from '../upstream.ts';

/** Which requests have a grace time: their answer goes on when their reader leaves. The others are aborted. */

const GRACE_MS = 15_000;
const MESSAGES = [{ role: 'user', content: 'q' }];
const UI_MESSAGES = [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'q' }] }];
let keys = 0;
/** Returns the header with a key of its own: a key would find the stream of an earlier test. */
const newKey = () => ({ 'idempotency-key': `k${keys++}` });

interface Case {
  readonly name: string;
  readonly path: string;
  readonly body?: object;
  readonly headers?: Record<string, string>;
  readonly resumable: boolean;
}

const v1 = { path: '/v1/chat/completions' };
const CASES: Case[] = [
  { name: 'GET /ask/stream', path: '/ask/stream?question=q', resumable: true },
  { name: 'GET /ask/stream with a key', path: '/ask/stream?question=q&key=of-get', resumable: true },
  { name: 'POST /ask/stream', path: '/ask/stream', body: { question: 'q' }, resumable: false },
  ...[true, false].map((resumable) => ({
    name: `POST /ask/stream with resumable: ${resumable}`,
    path: '/ask/stream',
    body: { question: 'q', resumable },
    resumable,
  })),
  ...[true, false].flatMap((stream) => {
    const name = `POST ${v1.path} with stream: ${stream}`;
    const body = { messages: MESSAGES, stream };
    return [
      { ...v1, name, body, resumable: false },
      { ...v1, name: `${name} and an Idempotency-Key`, body, headers: newKey(), resumable: true },
      { ...v1, name: `${name} and resumable: true`, body: { ...body, resumable: true }, resumable: true },
      {
        ...v1,
        name: `${name}, an Idempotency-Key and resumable: false`,
        body: { ...body, resumable: false },
        headers: newKey(),
        resumable: false,
      },
      {
        ...v1,
        name: `${name}, an Idempotency-Key and resumable: null`,
        body: { ...body, resumable: null },
        headers: newKey(),
        resumable: true,
      },
    ];
  }),
  { name: 'POST /ui/chat', path: '/ui/chat', body: { id: 'c', messages: UI_MESSAGES }, resumable: false },
  ...[true, false].map((resumable) => ({
    name: `POST /ui/chat with resumable: ${resumable}`,
    path: '/ui/chat',
    body: { id: 'c', messages: UI_MESSAGES, resumable },
    resumable,
  })),
  ...[undefined, true, false].map((resumable) => ({
    name: `POST /agui with resumable: ${resumable}`,
    path: '/agui',
    body: { threadId: 't', runId: `r ${resumable}`, messages: MESSAGES, forwardedProps: { resumable } },
    resumable: resumable ?? true,
  })),
];

t.test('when the reader of a request leaves', async (t) => {
  const clock = manualClock();
  const upstream = await startUpstream(t, unfinishedAnswer('x'));
  const { app, url } = await serve(t, {
    env: bellaAt(upstream.url, { STREAM_GRACE_MS: String(GRACE_MS) }),
    clock,
  });
  const readers = () => metricValue(app, 'sluice_readers');

  /** Sends a request, and closes its connection when it reads its stream. */
  const readAndLeave = async (path: string, body?: object, headers: Record<string, string> = {}) => {
    const outgoing = request(url + path, {
      agent: false,
      method: body === undefined ? 'GET' : 'POST',
      headers: { accept: '*/*', ...(body && { 'content-type': 'application/json' }), ...headers },
    }).on('error', () => {});
    outgoing.end(body && JSON.stringify(body));
    await until(async () => (await readers()) === 1, 'the request reads its stream');
    const call = await upstream.call(1);
    outgoing.destroy();
    await until(async () => (await readers()) === 0, 'its reader has left');
    return call;
  };
  t.afterEach(() => {
    upstream.calls.length = 0;
  });

  for (const { name, path, body, headers, resumable } of CASES) {
    t.test(`${name}: the answer ${resumable ? 'continues for the grace time' : 'is aborted'}`, async (t) => {
      const call = await readAndLeave(path, body, headers);
      if (resumable) {
        clock.advance(GRACE_MS - 1);
        t.equal(app.streams.active, 1, 'it runs in the last millisecond of the grace time');
      }
      clock.advance(resumable ? 1 : 0);
      if (!t.equal(app.streams.active, 0, 'then it has ended')) return;
      await call.closed;
      t.equal(call.finished, false, 'the upstream call is aborted');
    });
  }

  t.test('POST /streams: the answer continues, first unread and then after each reader', async (t) => {
    const started = (await (await postJson(`${url}/streams`, { question: 'q' })).json()) as { url: string };
    clock.advance(GRACE_MS - 1);
    await readAndLeave(started.url);
    clock.advance(GRACE_MS - 1);
    await readAndLeave(started.url);
    clock.advance(GRACE_MS - 1);
    t.equal(app.streams.active, 1, 'each reader begins the grace time again');
    clock.advance(1);
    t.equal(app.streams.active, 0, 'then it has ended');
  });

  t.test('POST /streams: an answer that nobody reads is aborted after the grace time', async (t) => {
    await postJson(`${url}/streams`, { question: 'q' });
    clock.advance(GRACE_MS - 1);
    t.equal(app.streams.active, 1, 'it waits for a reader');
    clock.advance(1);
    t.equal(app.streams.active, 0, 'then it has ended');
  });

  t.test('a repeated request with an Idempotency-Key reads the answer that continues', async (t) => {
    const headers = { 'idempotency-key': 'repeated' };
    const body = { messages: MESSAGES, stream: true };
    const ids: (string | null)[] = [];
    for (let i = 0; i < 2; i++) {
      const leave = new AbortController();
      const response = await fetch(url + v1.path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify(body),
        signal: leave.signal,
      });
      ids.push(response.headers.get('x-sluice-stream'));
      leave.abort();
      await until(async () => (await readers()) === 0, 'its reader has left');
    }
    t.ok(ids[0]);
    t.equal(ids[0], ids[1], 'one stream');
    t.equal(upstream.calls.length, 1, 'one upstream call');
    clock.advance(GRACE_MS);
    t.equal(app.streams.active, 0);
  });
});
