import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import t from 'tap';
import { bearer, sha256, until, writeConfig } from './helper.ts';
import { runServer } from './process.ts';
import { noRedis, startRedis } from './redis.ts';
import { deltaText, readAll } from './sse-client.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/** The bundle that the image runs: what the service reads from files by their place is found from it, too. */

const file = 'build/bundle/server.js';

t.before(() => {
  execFileSync(process.execPath, ['scripts/bundle.mjs', 'build'], { env: { PATH: process.env.PATH } });
});

t.test('the bundle serves its pages, and loads what only some services need', async (t) => {
  const env = { DEMO: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1' };
  const { url, child, exit } = await runServer(t, env, { file });
  const paths = ['/', '/vendor/marked.js', '/client.js', '/client-ai.js', '/docs/static/index.html', '/openapi.json'];
  for (const path of [...paths, '/livez', '/readyz', '/metrics'])
    t.equal((await fetch(`${url}${path}`)).status, 200, path);
  t.match((await readAll(`${url}/ask/stream?question=q`)).events.at(-1)?.json, { type: 'end' });
  child.kill('SIGTERM');
  t.equal(await exit, 0);
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
  const server = await runServer(t, env, { file });
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
