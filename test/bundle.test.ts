import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { bearer, sha256, until, writeConfig } from './helper.ts';
import { runServer } from './process.ts';
import { noRedis, startRedis } from './redis.ts';
import { deltaText, readAll } from './sse-client.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/** The bundle that the image runs: what the service reads from files by their place is found from it, too. */

t.test('the bundle loads little', async (t) => {
  const { url } = await runServer(t, { DEMO: 'true' });
  const youngBytes = async () => {
    const young = /^nodejs_heap_space_size_total_bytes\{space="new"\} (\d+)$/m;
    return Number(young.exec(await (await fetch(`${url}/metrics`)).text())?.[1]);
  };
  const atStart = await youngBytes();
  t.ok(atStart <= 2 ** 22, `the young generation has ${atStart} bytes: V8 did not double it at the start`);
  await Promise.all(Array.from({ length: 100 }, () => readAll(`${url}/ask/stream?question=q`)));
  const underLoad = await youngBytes();
  t.ok(underLoad > 2 ** 22, `under load it may grow: ${underLoad} bytes`);
  const folder = 'build/bundle';
  const files = readdirSync(folder).filter((name) => name.endsWith('.js'));
  const texts = new Map(files.map((name) => [name, readFileSync(`${folder}/${name}`, 'latin1')]));
  const holding = (pattern: RegExp) => files.filter((name) => pattern.test(texts.get(name) ?? ''));
  t.same(holding(/[^\p{ASCII}]/u), [], 'V8 keeps one byte for each character');
  t.same(holding(/from ?"(node:)?http"/), [], 'an import of `http` loads the undici of Node');
  t.same(holding(/undici\/lib\/web\/fetch\/index\.js/), [], 'no second `fetch`');
  t.match(holding(/ioredis\/built\/Redis\.js/), [/^clients-/], 'the client of Redis is loaded only where it is used');
});

t.test('the bundle serves its pages, and loads what only some services need', async (t) => {
  const env = { DEMO: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1' };
  const { url, child, exit } = await runServer(t, env);
  const paths = ['/', '/vendor/marked.js', '/client.js', '/client-ai.js', '/docs/static/index.html', '/openapi.json'];
  for (const path of [...paths, '/livez', '/readyz', '/metrics'])
    t.equal((await fetch(`${url}${path}`)).status, 200, path);
  t.match((await readAll(`${url}/ask/stream?question=q`)).events.at(-1)?.json, { type: 'end' });
  child.kill('SIGTERM');
  t.equal(await exit, 0);
});

t.test('the bundle exports spans', async (t) => {
  const collector = await startUpstream(t, ({ response }) => void response.end('{}'));
  const env = { DEMO: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: collector.url };
  const { url, child, exit } = await runServer(t, env);
  await readAll(`${url}/ask/stream?question=q`);
  child.kill('SIGTERM');
  t.equal(await exit, 0);
  const [call] = collector.calls;
  t.equal(call?.request.url, '/v1/traces');
  t.match(call?.body, /ask\/stream/);
});

t.test('the bundle reads a changed configuration, and runs its scripts in Redis', { skip: noRedis }, async (t) => {
  const upstream = await startUpstream(t, completeAnswer('one ', 'two'));
  const redis = await startRedis(t);
  const config = writeConfig(t, '');
  const write = (key: string) =>
    writeFileSync(
      config,
      `keys: [{ name: k, sha256: ${sha256(key)}, requestsPerMinute: 100, tokensPerMinute: 100000, maxConcurrent: 5 }]
providers: { it: { type: openai, api: chat, baseUrl: "${upstream.url}/v1", apiKeys: [k] } }
models: [{ name: m, targets: [{ provider: it, model: x }] }]\n`,
    );
  write('old');
  const env = { CONFIG_FILE: config, REDIS_URL: redis.url, TICKET_SECRET: 'x'.repeat(48) };
  const server = await runServer(t, env);
  const { url, child } = server;
  const ask = (key: string) => readAll(`${url}/ask/stream?question=q&key=once`, { headers: bearer(key) });
  const first = await ask('old');
  t.equal(deltaText(first), 'one two');
  t.equal(deltaText(await ask('old')), 'one two');
  t.equal(upstream.calls.length, 1, 'the second question found the stream of its key');
  write('new');
  child.kill('SIGHUP');
  await until(async () => (await fetch(`${url}/v1/models`, { headers: bearer('new') })).ok, 'the new key is valid');
  t.same(
    server.lines.filter(({ level }) => Number(level) >= 50),
    [],
    'no error was logged',
  );
});
