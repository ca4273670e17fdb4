import { once } from 'node:events';
import { request } from 'node:http';
import t, { type Test } from 'tap';
import type { Config } from '../plugins/config/index.ts';
import type { Provider } from '../providers/types.ts';
import { bearer, captureLog, serve, sha256, until, writeConfig } from './helper.ts';
import { manualClock } from './manual-clock.ts';
import { metricValue } from './metric-value.ts';
import { postJson } from './post-json.ts';
import { noRedis, startRedis } from './redis.ts';
import { deltaText, open, readAll } from './sse-client.ts';
import { DONE, STOP, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** A key that is removed or replaced while answers run and are read, over HTTP. */

type Keys = Config['keys'];
const keyOf = (name: string, sha = sha256(name)) => ({ name, sha256: sha });

/** Starts a service with the keys `a` and `b`, whose texts are their names. */
async function serveWithKeys(t: Test, upstreamUrl: string, env: Record<string, string> = {}, overrides = {}) {
  const yaml = `keys: [{ name: a, sha256: ${sha256('a')} }, { name: b, sha256: ${sha256('b')} }]
providers: { it: { type: openai-compatible, baseUrl: "${upstreamUrl}/v1", apiKeys: [k] } }
models: [{ name: m, targets: [{ provider: it, model: m }] }]`;
  const service = await serve(t, { ...overrides, env: { CONFIG_FILE: writeConfig(t, yaml), ...env } });
  const reload = (...keys: Keys) => service.app.reloadConfig({ ...service.app.config, keys });
  return { ...service, reload };
}

const MESSAGES = [{ role: 'user', content: 'q' }];
const UI_MESSAGES = [{ id: '1', role: 'user', parts: [{ type: 'text', text: 'q' }] }];

t.test('a removed key ends its open responses on every API, and their reconnects are refused', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one'));
  const { app, url, reload } = await serveWithKeys(t, upstream.url);
  const as = (key: string, body?: unknown) => ({ headers: bearer(key), ...(body !== undefined && { body }) });
  const asked = await open(`${url}/ask/stream?question=q&key=0123456789abcdef`, as('a'));
  const { json: start } = await asked.until('start');
  const ticket = (await (await postJson(`${url}/tickets`, {}, bearer('a'))).json()) as { ticket: string };
  const byTicket = await open(`${url}/ask/stream?question=q&ticket=${ticket.ticket}`);
  const byReadTicket = await open(`${url}${start.url}`);
  const posted = await open(`${url}/ask/stream`, as('a', { question: 'q' }));
  const chunks = await open(`${url}/v1/chat/completions`, as('a', { messages: MESSAGES, stream: true }));
  const ui = await open(`${url}/ui/chat`, as('a', { id: 'c', messages: UI_MESSAGES }));
  const run = await open(`${url}/agui`, as('a', { threadId: 't', runId: 'r', messages: MESSAGES }));
  const whole = postJson(`${url}/v1/chat/completions`, { messages: MESSAGES }, bearer('a'));
  const other = await open(`${url}/ask/stream?question=q`, as('b'));
  await upstream.call(8);
  const own = [asked, byTicket, byReadTicket, posted];
  for (const reading of [...own, other]) await reading.until('delta');
  await until(() => deltaOf(chunks) === 'one', '/v1 has its first delta');
  await until(() => ui.events.some(({ json }) => json?.type === 'text-delta'), '/ui has its first delta');

  reload(keyOf('b'));
  for (const reading of own) {
    const { id, json } = await reading.until('error');
    t.match(json, { code: 'revoked', retryable: false });
    t.match(id, /\.end$/);
    t.equal(await reading.ended, true, 'the response is complete');
    t.equal(reading.events.filter(({ json }) => json.type === 'error').length, 1);
  }
  t.match((await run.until('RUN_ERROR')).json, { code: 'revoked' });
  await Promise.all([chunks.ended, ui.ended, run.ended]);
  t.match(chunks.events.at(-1)?.json, { error: { code: 'revoked', type: 'authentication_error' } }, '/v1, streamed');
  t.equal(ui.events.at(-2)?.json.type, 'error', '/ui');
  const response = await whole;
  t.match([response.status, await response.json()], [401, { error: { code: 'revoked' } }], '/v1, whole');
  t.equal(response.headers.get('x-should-retry'), 'false');
  const calls = upstream.calls.slice(0, -1);
  await Promise.all(calls.map(({ closed }) => closed));
  t.equal(calls.length, 7, 'the calls of the key are aborted');

  const lastEventId = byTicket.events.at(-1)?.id;
  for (const [what, path, headers] of [
    ['with the key', '/ask/stream?question=q&key=0123456789abcdef', bearer('a')],
    ['with a ticket', `/ask/stream?question=q&ticket=${ticket.ticket}`, {}],
    ['with a read ticket', start.url, {}],
  ] as const) {
    const again = await readAll(`${url}${path}`, { headers: { 'last-event-id': lastEventId, ...headers } });
    t.equal(again.response.statusCode, 401, `a reconnect ${what}: an EventSource gives up`);
  }
  (await upstream.call(8)).response.end(text(' two') + STOP + DONE);
  t.equal((await other.until('end')).json.answer, 'one two', 'the answer of another key is complete');
  await until(async () => (await metricValue(app, 'sluice_readers')) === 0, 'no reader is left');
  t.equal(app.streams.active, 0, 'no generation is left');
});

const deltaOf = ({ events }: Awaited<ReturnType<typeof open>>) =>
  events.map(({ json }) => json?.choices?.[0]?.delta?.content ?? '').join('');

t.test('a key is replaced without cutting readers by a second entry', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one'));
  const { url, reload } = await serveWithKeys(t, upstream.url);
  const reading = await open(`${url}/ask/stream?question=q`, { headers: bearer('a') });
  const { id } = await reading.until('delta');
  const status = async (key: string) => (await fetch(`${url}/v1/models`, { headers: bearer(key) })).status;

  reload(keyOf('a'), keyOf('a-2', sha256('new')), keyOf('b'));
  t.same([await status('a'), await status('new')], [200, 200], 'both keys are accepted');
  const resumed = await open(`${url}/ask/stream?question=q`, { headers: { 'last-event-id': id, ...bearer('a') } });
  (await upstream.call(1)).response.write(text(' two'));
  await until(() => deltaText(reading) === 'one two', 'the answer goes on');
  await until(() => deltaText(resumed) === ' two', 'and can be resumed');

  reload(keyOf('a', sha256('new')), keyOf('a-old', sha256('a')), keyOf('b'));
  (await upstream.call(1)).response.write(text(' three'));
  await until(() => deltaText(reading) === 'one two three', 'also if the old key is listed under another name');
  const late = await readAll(`${url}/ask/stream?question=q`, { headers: { 'last-event-id': id, ...bearer('a') } });
  t.equal(late.events[0]?.json.code, 'stream_unknown', 'but its streams belong to the old name');

  reload(keyOf('a', sha256('new')), keyOf('b'));
  t.equal((await reading.until('error')).json.code, 'revoked', 'the old key is removed at last');
});

t.test('a question whose body arrives after its key was removed is refused', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one'));
  const { app, url, reload } = await serveWithKeys(t, upstream.url);
  const body = JSON.stringify({ question: 'q' });
  const before = await metricValue(app, 'sluice_connections');
  const outgoing = request(`${url}/streams`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'content-length': body.length, ...bearer('a') },
  });
  outgoing.write(body.slice(0, 5));
  let hasBegun = false;
  app.server.once('request', () => {
    hasBegun = true;
  });
  await until(async () => hasBegun && (await metricValue(app, 'sluice_connections')) > before, 'the request has begun');
  reload(keyOf('b'));
  outgoing.end(body.slice(5));
  const [response] = await once(outgoing, 'response');
  t.equal(response.statusCode, 401);
  response.resume();
  t.equal(upstream.calls.length, 0, 'no model is asked');
});

/** Time that the last event has to reach a client that does not read. */
const REVOKED_CUT_MS = 3_000;

t.test('a client that does not read is cut three seconds after its key was removed', async (t) => {
  const clock = manualClock();
  const provider: Provider = {
    name: 'it',
    async *stream(_, signal) {
      yield { type: 'text', text: 'x'.repeat(20_000_000) };
      yield { type: 'finish', reason: 'stop' };
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    },
    async close() {},
  };
  const env = { STREAM_MAX_CHARS: '100000000', STREAM_HIGH_WATER_MARK: '100000000', STREAM_FLUSH_MS: '0' };
  const overrides = { providers: { it: provider }, clock };
  const { app, url, reload } = await serveWithKeys(t, 'http://127.0.0.1:1', env, overrides);
  const reading = await open(`${url}/ask/stream?question=q`, { headers: bearer('a') });
  const other = await open(`${url}/ask/stream?question=q`, { headers: bearer('b') });
  await reading.until('start');
  await other.until('start');
  for (const { response } of [reading, other]) response.pause();
  await until(() => app.streams.active === 0, 'both answers are complete, and are being written');
  reload(keyOf('b'));
  clock.advance(REVOKED_CUT_MS - 1);
  t.equal(app.responses.open, 2, 'it has three seconds');
  clock.advance(1);
  await until(() => app.responses.open === 1, 'it is cut');
  reading.response.resume();
  t.equal(await reading.ended, false, 'its response is not complete');
  other.response.resume();
  t.equal(await other.ended, true, 'that of another key is');
});

t.test('a response that has closed waits neither for a revocation nor for its cut', async (t) => {
  const clock = manualClock();
  const { logTo, log } = captureLog();
  const upstream = await startUpstream(t, unfinishedAnswer('one'));
  const { app, url, reload } = await serveWithKeys(t, upstream.url, {}, { clock, logTo });
  const pending: number[] = [];
  for (const [key, rest] of [
    ['a', [keyOf('b'), keyOf('c')]],
    ['b', [keyOf('c')]],
  ] as const) {
    const reading = await open(`${url}/ask/stream?question=q`, { headers: bearer(key) });
    await until(() => app.streams.active === 1, 'the answer runs');
    reload(...rest);
    await reading.ended;
    await until(() => app.responses.open === 0 && app.streams.active === 0, 'the response is closed');
    pending.push(clock.pending);
  }
  t.equal(pending[0], pending[1], 'no timer is left');
  const left = await open(`${url}/ask/stream?question=q`, { headers: bearer('c') });
  const { json } = await left.until('start');
  await fetch(`${url}${json.url}`, { method: 'DELETE' });
  await left.ended;
  await until(() => app.responses.open === 0 && app.streams.active === 0, 'the response is closed');
  reload(keyOf('d'));
  const revoked = [...log().matchAll(/"owner":"key:(.)","msg":"credential revoked/g)].map(([, name]) => name);
  t.same(revoked, ['a', 'b'], 'a key whose responses have ended is not in use');
});

t.test('keys that are removed on one of two replicas', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const env = { REDIS_URL: redis.url, TICKET_SECRET: 'a secret of at least 32 characters' };
  const startReplicas = async (t: Test) => {
    const upstream = await startUpstream(t, unfinishedAnswer('one'));
    const [a, b] = await Promise.all([serveWithKeys(t, upstream.url, env), serveWithKeys(t, upstream.url, env)]);
    await until(() => [a, b].every(({ app }) => app.cluster?.connection.isAvailable), 'both replicas share streams');
    const local = await open(`${a.url}/ask/stream?question=q`, { headers: bearer('a') });
    const { json } = await local.until('start');
    const remote = await open(`${b.url}${json.url}`);
    for (const reading of [local, remote]) await reading.until('delta');
    return { upstream, a, b, local, remote, start: json };
  };

  t.test('the replica that produces the answer ends it for readers of all replicas', async (t) => {
    const { upstream, a, b, local, remote, start } = await startReplicas(t);
    a.reload(keyOf('b'));
    for (const reading of [local, remote]) {
      t.match((await reading.until('error')).json, { code: 'revoked', retryable: false });
      await reading.ended;
    }
    await (await upstream.call(1)).closed;
    t.equal((await readAll(`${b.url}${start.url}`)).events.at(-1)?.json.code, 'revoked', 'the end is stored');
    t.equal(upstream.calls.length, 1, 'no replica continues the answer');
  });

  t.test('a replica that only reads cuts its own readers, and the answer goes on elsewhere', async (t) => {
    const { upstream, b, local, remote } = await startReplicas(t);
    b.reload(keyOf('b'));
    t.equal((await remote.until('error')).json.code, 'revoked');
    await remote.ended;
    (await upstream.call(1)).response.end(text(' two') + STOP + DONE);
    t.equal((await local.until('end')).json.answer, 'one two');
  });
});
