import t, { type Test } from 'tap';
import { bearer, serve, sha256, until, writeConfig } from './helper.ts';
import { postJson } from './post-json.ts';
import { noRedis, startRedis } from './redis.ts';
import { open, readAll } from './sse-client.ts';
import { type Script, sse, startUpstream, text } from './upstream.ts';

/** Idempotency keys over HTTP: what a repeated question gets after its first answer has failed. */

/** An upstream that fails until it is told to answer. */
async function startFlakyUpstream(t: Test) {
  let script: Script = ({ response }) => void response.writeHead(500).end();
  const upstream = await startUpstream(t, (call) => script(call));
  let answers = 0;
  return {
    url: upstream.url,
    answers: () => answers,
    /** From now on, each call is answered by `part` and then left open. */
    answerWith(part: string) {
      script = ({ response }) => {
        answers += 1;
        sse(response).write(text(part));
      };
    },
    fail(after: string) {
      script = ({ response }) => void sse(response).write(text(after), () => response.destroy());
    },
    refuse() {
      script = ({ response }) => void response.writeHead(400).end();
    },
  };
}

async function serveOne(t: Test, env: Record<string, string> = {}) {
  const upstream = await startFlakyUpstream(t);
  const yaml = `keys: [{ name: a, sha256: ${sha256('a')} }]
providers: { it: { type: openai-compatible, baseUrl: "${upstream.url}/v1", apiKeys: [k] } }
models: [{ name: m, targets: [{ provider: it, model: m }] }]`;
  const start = () => serve(t, { env: { CONFIG_FILE: writeConfig(t, yaml), ...env } });
  return { upstream, start };
}

/** The ways to send a key. Each returns the id of the stream, and whether its answer has begun. */
type Ask = (url: string) => Promise<{ id: string; failed: boolean }>;

const openAsk =
  (query: string, headers: Record<string, string>): Ask =>
  async (url) => {
    const reading = await open(`${url}/ask/stream?question=q${query}`, { headers });
    const { json } = await reading.until('start');
    await until(() => reading.events.length > 1, 'the answer begins or fails');
    return { id: json.stream, failed: reading.events[1]?.json.type === 'error' };
  };

const WAYS: Record<string, (url: string) => Promise<Ask>> = {
  'key of GET /ask/stream': async () => openAsk('&key=0123456789abcdef', bearer('a')),
  'a ticket': async (url) => {
    const { ticket } = (await (await postJson(`${url}/tickets`, {}, bearer('a'))).json()) as { ticket: string };
    return openAsk(`&ticket=${ticket}`, {});
  },
  'X-Request-Id behind a gateway': async () => openAsk('', { ...bearer('a'), 'x-request-id': 'r1' }),
  'Idempotency-Key of POST /streams': async () => async (url) => {
    const headers = { ...bearer('a'), 'idempotency-key': 'k' };
    const started = (await (await postJson(`${url}/streams`, { question: 'q' }, headers)).json()) as {
      url: string;
      id: string;
    };
    const reading = await open(`${url}${started.url}`);
    await until(() => reading.events.length > 1, 'the answer begins or fails');
    return { id: started.id, failed: reading.events[1]?.json.type === 'error' };
  },
  'Idempotency-Key of /v1/chat/completions': async () => async (url) => {
    const headers = { ...bearer('a'), 'idempotency-key': 'k' };
    const body = { messages: [{ role: 'user', content: 'q' }], stream: true };
    const response = await postJson(`${url}/v1/chat/completions`, body, headers);
    const failed = response.status !== 200;
    if (failed) t.equal(response.status, 502);
    else void response.body?.cancel();
    return { id: response.headers.get('x-sluice-stream') as string, failed };
  },
};

for (const [name, prepare] of Object.entries(WAYS)) {
  t.test(`${name}: a question that failed before its first part may be asked again`, async (t) => {
    const { upstream, start } = await serveOne(t, { TRUST_PROXY: '1' });
    const { url } = await start();
    const ask = await prepare(url);
    const first = await ask(url);
    t.equal(first.failed, true, 'the first answer fails');
    upstream.answerWith('one');
    const both = await Promise.all([ask(url), ask(url)]);
    t.same([both[0].failed, both[1].failed], [false, false], 'two clients at once get an answer');
    t.equal(both[0].id, both[1].id, 'the same one');
    t.not(both[0].id, first.id);
    t.equal((await ask(url)).id, both[0].id, 'and so does a third');
    t.equal(upstream.answers(), 1, 'the provider is called once');
  });
}

t.test('a failure after a part, and one that does not pass, keep their key', async (t) => {
  for (const [what, arrange, code] of [
    ['a failure after a part', 'fail', 'upstream_truncated'],
    ['a refusal', 'refuse', 'upstream_rejected'],
  ] as const) {
    const { upstream, start } = await serveOne(t);
    const { url } = await start();
    if (arrange === 'fail') upstream.fail('one');
    else upstream.refuse();
    const ask = () => readAll(`${url}/ask/stream?question=q&key=0123456789abcdef`, { headers: bearer('a') });
    const first = await ask();
    t.equal(first.events.at(-1)?.json.type, 'error', code);
    upstream.answerWith('two');
    const second = await ask();
    t.same(
      second.events.slice(1).map(({ id, json }) => [id, json]),
      first.events.slice(1).map(({ id, json }) => [id, json]),
      `${what}: the same events`,
    );
    t.equal(upstream.answers(), 0, `${what}: the provider is not called again`);
  }
});

t.test('an EventSource that got the failure sees the end of its own stream when it reconnects', async (t) => {
  const { upstream, start } = await serveOne(t);
  const { url } = await start();
  const path = `${url}/ask/stream?question=q&key=0123456789abcdef`;
  const first = await readAll(path, { headers: bearer('a') });
  const [{ id: startId }, { id: endId }] = [first.events[0], first.events[1]] as [{ id: string }, { id: string }];
  upstream.answerWith('one');
  await (await open(path, { headers: bearer('a') })).until('delta');
  const resume = (lastEventId: string) => readAll(path, { headers: { ...bearer('a'), 'last-event-id': lastEventId } });
  t.equal((await resume(endId)).response.statusCode, 204, 'after the failure');
  t.match((await resume(startId)).events, [{ id: endId, json: { type: 'error' } }], 'before it');
  t.equal(upstream.answers(), 1, 'no reconnect asks the question');
});

t.test('replicas that are asked again at the same time call the provider once', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const env = { REDIS_URL: redis.url, TICKET_SECRET: 'a secret of at least 32 characters' };
  const { upstream, start } = await serveOne(t, env);
  const replicas = [await start(), await start()] as const;
  await until(() => replicas.every(({ app }) => app.cluster?.connection.isAvailable), 'both replicas share streams');
  const path = '/ask/stream?question=q&key=0123456789abcdef';
  const first = await readAll(`${replicas[0].url}${path}`, { headers: bearer('a') });
  t.equal(first.events.at(-1)?.json.type, 'error', 'the first answer fails');
  const elsewhere = await readAll(replicas[1].url + first.events[0]?.json.url);
  t.equal(elsewhere.events.at(-1)?.json.type, 'error', 'the other replica knows');
  upstream.answerWith('one');
  const readings = await Promise.all(
    Array.from({ length: 20 }, (_, i) => open(`${replicas[(i % 2) as 0 | 1].url}${path}`, { headers: bearer('a') })),
  );
  const ids = await Promise.all(readings.map(async (reading) => (await reading.until('start')).json.stream));
  await Promise.all(readings.map((reading) => reading.until('delta')));
  t.equal(new Set(ids).size, 1, 'all get one stream');
  t.not(ids[0], first.events[0]?.json.stream, 'another one than before');
  t.equal(upstream.answers(), 1, 'the provider is called once');
});
