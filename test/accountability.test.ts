import { setImmediate as turn } from 'node:timers/promises';
import Fastify from 'fastify';
import { SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { loadConfig } from '../plugins/config/load.ts';
import metrics from '../plugins/metrics/index.ts';
import { MAX_REMOVED_KEYS } from '../plugins/metrics/key-labels.ts';
import { bearer, serve, sha256, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { postJson } from './post-json.ts';
import { noRedis } from './redis.ts';
import { startReplicas } from './replicas.ts';
import { deltaText, open, readAll } from './sse-client.ts';
import { type Call, chunk, completeAnswer, DONE, type Script, sse, startUpstream, text } from './upstream.ts';

/** Tests what metrics tell about the callers: requests and tokens by key. The ends of one answer: `streams/ends.test.ts`. */

const SECRET = 'a shared secret of more than thirty-two characters';
const AUTHENTICATION = `keys:
  - { name: a, sha256: ${sha256('a')} }
  - { name: token, sha256: ${sha256('token')} }
  - { name: none, sha256: ${sha256('none')} }
  - { name: x.y_z-1, sha256: ${sha256('x.y_z-1')} }
jwt: { secret: "${SECRET}", issuer: "https://issuer.example", audience: sluice, algorithms: [HS256] }`;

const modelsAt = (url: string) => `
providers:
  one: { type: openai-compatible, baseUrl: "${url}/v1", apiKeys: [k] }
  two: { type: openai-compatible, baseUrl: "${url}/v1", apiKeys: [k] }
models:
  - { name: steady, targets: [{ provider: one, model: m1 }, { provider: two, model: m2 }], onMidStreamFailure: continue }
  - { name: plain, targets: [{ provider: one, model: m1 }, { provider: two, model: m2 }] }`;

async function serveWith(t: Test, script: Script, authentication = AUTHENTICATION) {
  const upstream = await startUpstream(t, script);
  const CONFIG_FILE = writeConfig(t, authentication + modelsAt(upstream.url));
  return { upstream, ...(await serve(t, { env: { CONFIG_FILE, DEFAULT_MODEL: 'plain' } })) };
}

const tokenOf = (sub: string) =>
  new SignJWT({ iss: 'https://issuer.example', aud: 'sluice', sub })
    .setProtectedHeader({ alg: 'HS256' })
    .setExpirationTime('1 minute')
    .sign(new TextEncoder().encode(SECRET));

t.test('requests and tokens are counted by key, and by a word for everybody else', async (t) => {
  const { app, url } = await serveWith(t, completeAnswer('x'));
  const requests = (labels: Record<string, string>) => metricValue(app, 'sluice_requests_total', labels);
  const output = (key: string) => metricValue(app, 'sluice_tokens_total', { key, kind: 'output' });
  const ask = (headers: Record<string, string>) => readAll(`${url}/ask/stream?question=q`, { headers });

  for (const name of ['a', 'token', 'none', 'x.y_z-1']) {
    await ask(bearer(name));
    t.equal(await requests({ key: name, route: '/ask/stream', status: '200' }), 1, `${name}: requests`);
    t.equal(await output(name), 1_024, `${name}: tokens`);
  }
  for (const sub of ['user-1', 'user-2']) await ask(bearer(await tokenOf(sub)));
  t.equal(await requests({ key: '_token', route: '/ask/stream' }), 2, 'all subjects of tokens share a word');
  t.equal(await output('_token'), 2 * 1_024);

  const { ticket } = (await (await postJson(`${url}/tickets`, {}, bearer('a'))).json()) as { ticket: string };
  await readAll(`${url}/ask/stream?question=q&ticket=${ticket}`);
  t.equal(await requests({ key: 'a', route: '/ask/stream' }), 2, 'a ticket counts for its key');

  await fetch(`${url}/v1/models`, { headers: bearer('unknown') });
  t.equal(await requests({ key: '_none', route: '/v1/models', status: '401' }), 1, 'refused credentials');
  for (const path of ['/livez', '/openapi.json', '/nothing', '/v1/nothing']) await fetch(url + path);
  t.equal(await requests({ key: '_none', route: '/livez' }), 1, 'a public route');
  t.equal(await requests({ key: '_none', route: 'none', status: '404' }), 2, 'unknown routes');
  await fetch(`${url}/v1/models`, { method: 'DELETE', headers: bearer('a') });
  t.equal(await requests({ key: '_none', status: '405' }), 1, 'a wrong method');
  t.equal(await requests({ key: '_anonymous' }), 0, 'nobody is anonymous');
});

t.test('without keys, everybody is anonymous', async (t) => {
  const { app, url } = await serveWith(t, completeAnswer('x'), '');
  await readAll(`${url}/ask/stream?question=q`);
  await fetch(`${url}/livez`);
  await fetch(`${url}/v1/nothing`);
  const requests = (key: string) => metricValue(app, 'sluice_requests_total', { key });
  t.same([await requests('_anonymous'), await requests('_none')], [1, 2]);
  t.equal(await metricValue(app, 'sluice_tokens_total', { key: '_anonymous', kind: 'output' }), 1_024);
});

t.test('no key can have a name that the label uses for others', async (t) => {
  const app = Fastify();
  await app.register(metrics, { hasRedis: false });
  const { labelOf } = app.metrics.keyLabels;
  const words = [undefined, 'anybody', 'jwt:hash', 'key:not-configured', 'x'].map((owner) => labelOf(owner));
  t.same(words, ['_none', '_anonymous', '_token', '_unknown', '_unknown']);
  app.metrics.keyLabels.configure(['web']);
  const visitors = ['key:web#hash', 'key:other#hash', 'jwt:hash#hash'].map((owner) => labelOf(owner));
  t.same(visitors, ['web', '_unknown', '_token'], 'a visitor has the label of its key');
  for (const name of words) {
    const CONFIG_FILE = writeConfig(t, `keys: [{ name: ${name}, sha256: ${sha256('x')} }]`);
    t.throws(() => loadConfig({ CONFIG_FILE }), { message: /keys\.0\.name/ }, name);
  }
});

t.test('a removed key keeps its series for a while, and the number of values stays bounded', async (t) => {
  const app = Fastify();
  await app.register(metrics, { hasRedis: false });
  const { keyLabels, tokens, cost, requests } = app.metrics;
  const reload = keyLabels.configure;
  const count = (name: string) => {
    const key = keyLabels.labelOf(`key:${name}`);
    tokens.inc({ key, model: 'm', kind: 'input', basis: 'counted' });
    cost.inc({ key, model: 'm', basis: 'counted' });
    requests.inc({ key, method: 'GET', route: '/', status: '200' });
    requests.inc({ key, method: 'GET', route: '/', status: '404' });
  };
  const keysOf = async (counter: typeof tokens | typeof cost | typeof requests) =>
    new Set((await counter.get()).values.map(({ labels }) => labels.key));

  for (let i = 0; i < 10_000; i++) {
    reload(['stays', `k${i}`]);
    count('stays');
    count(`k${i}`);
    await turn(); // A reload reads files.
  }
  const kept = Array.from({ length: MAX_REMOVED_KEYS + 1 }, (_, i) => `k${9_999 - i}`);
  for (const counter of [tokens, cost, requests]) t.same(await keysOf(counter), new Set(['stays', ...kept]));
  const spent = (key: string) => metricValue(app, 'sluice_tokens_total', { key });
  t.equal(await spent('stays'), 10_000, 'a key that stays loses nothing');
  count('k9998');
  t.equal(await spent('k9998'), 2, 'an answer that ends after its key was removed');
  count('k0');
  t.equal(await spent('_unknown'), 1, 'a key that was removed long ago');
  reload(['k9998']);
  for (let i = 0; i < MAX_REMOVED_KEYS; i++) reload(['k9998', `next${i}`]);
  await turn();
  t.equal(await spent('k9998'), 2, 'a name that is configured again keeps its series');
});

t.test('a reload of the configuration replaces the names of keys', async (t) => {
  const { app, url } = await serveWith(t, completeAnswer('x'));
  const requests = (key: string) => metricValue(app, 'sluice_requests_total', { key });
  app.reloadConfig({ ...app.config, keys: [{ name: 'new', sha256: sha256('new') }] });
  for (const key of ['new', 'a']) await fetch(`${url}/v1/models`, { headers: bearer(key) });
  t.same([await requests('new'), await requests('a'), await requests('_none')], [1, 0, 1]);
});

/** Writes the end of an answer, with its counts. */
function finishWith({ response }: Call, input: number, output: number): void {
  const usage = { prompt_tokens: input, completion_tokens: output, total_tokens: input + output };
  response.end(chunk({}, 'stop', { usage }) + DONE);
}

/** Returns the input and output tokens of a key over services, by basis. */
async function spentTokens(apps: readonly Parameters<typeof metricValue>[0][], key: string) {
  const sum = async (kind: string, basis: string) => {
    let total = 0;
    for (const app of apps) total += await metricValue(app, 'sluice_tokens_total', { key, kind, basis });
    return total;
  };
  return {
    counted: [await sum('input', 'counted'), await sum('output', 'counted')],
    estimated: [await sum('input', 'estimated'), await sum('output', 'estimated')],
  };
}

t.test('a fallback and a continuation count what the last provider counted, and estimate what broke off', async (t) => {
  const { app, url, upstream } = await serveWith(t, ({ body, response }) => {
    const { model } = JSON.parse(body) as { model: string };
    const call = upstream.calls.at(-1) as Call;
    if (model === 'm2') {
      sse(response).write(text('rest'));
      return finishWith(call, 100, 7);
    }
    if (!body.includes('break')) return void response.writeHead(503).end();
    sse(response).write(text('x'.repeat(40)));
    response.end(); // Without a finish reason.
  });
  const headers = bearer('a');
  await readAll(`${url}/ask/stream?question=q`, { headers });
  t.same(await spentTokens([app], 'a'), { counted: [100, 7], estimated: [0, 0] }, 'the refused call costs nothing');
  const { events } = await readAll(`${url}/ask/stream?question=break&model=steady`, { headers });
  t.equal(events.at(-1)?.json.answer, `${'x'.repeat(40)}rest`, 'the answer is continued');
  t.same(await spentTokens([app], 'a'), { counted: [200, 14], estimated: [90, 10] }, 'the call that broke off');
  await readAll(`${url}/ask/stream?question=break`, { headers });
  const estimated = [90 + Math.ceil(('break'.length + '[]'.length) / 4), 10 + 1_024];
  t.same(await spentTokens([app], 'a'), { counted: [200, 14], estimated }, 'an answer that is not continued');
});

t.test('after a takeover each answer is counted once, over both replicas', { skip: noRedis }, async (t) => {
  const partial = 'x'.repeat(40);
  const headers = bearer('a');
  const start = async () => {
    const script: Script = ({ response }) => void sse(response).write(text(partial));
    const CONFIG_FILE = writeConfig(
      t,
      `${AUTHENTICATION}
models:
  - { name: steady, targets: [{ provider: bella, model: m }], onMidStreamFailure: continue }
  - { name: plain, targets: [{ provider: bella, model: m }] }`,
    );
    const replicas = await startReplicas(t, script, { CONFIG_FILE, DEFAULT_MODEL: 'steady', TICKET_SECRET: SECRET });
    const { a, b } = replicas;
    /** Starts an answer on A that is read on B, where all its text so far has arrived. */
    const readOnB = async (model: string) => {
      const local = await open(`${a.url}/ask/stream?question=qqqqqq&model=${model}`, { headers });
      const remote = await open(b.url + (await local.until('start')).json.url);
      await until(() => deltaText(remote) === partial, 'the reader on B has the text');
      return { local, remote };
    };
    return { ...replicas, readOnB };
  };
  const promptTokens = Math.ceil(('qqqqqq'.length + '[]'.length) / 4);

  t.test('a replica that drains hands its answer over', async (t) => {
    const { a, b, upstream, readOnB } = await start();
    const { remote } = await readOnB('steady');
    const plain = await readOnB('plain');
    await a.app.lifecycle.drain();
    finishWith(await upstream.call(3), 100, 7);
    await remote.until('end');
    await plain.remote.until('error');
    await until(() => a.app.streams.active + b.app.streams.active === 0, 'nothing runs');
    const spent = await spentTokens([a.app, b.app], 'a');
    const lost = [promptTokens, 1_024];
    t.same(spent.counted, [100, 7], 'what the provider has counted');
    t.same(spent.estimated, [90 + (lost[0] ?? 0), 10 + (lost[1] ?? 0)], 'the call that broke off, and the lost answer');
    t.same((await spentTokens([b.app], 'a')).counted, [100, 7], 'the replica that took over counts');
  });

  t.test('a replica that dies leaves its answers to the other one', async (t) => {
    const { redis, a, b, upstream, readOnB } = await start();
    const { remote } = await readOnB('steady');
    const plain = await readOnB('plain');
    // As `kill -9`: the replica sends nothing more, and its lease expires.
    const { cluster } = a.app;
    cluster?.connection.close();
    cluster?.mailbox.close();
    await redis.client.del(cluster?.leaseKey(cluster.replica) as string);
    finishWith(await upstream.call(3), 100, 7);
    await remote.until('end');
    await plain.remote.until('error');
    await until(() => b.app.streams.active === 0, 'nothing runs on B');
    t.same(await spentTokens([b.app], 'a'), { counted: [100, 7], estimated: [90 + promptTokens, 10 + 1_024] });
  });
});
