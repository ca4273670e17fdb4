import { mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { readConfig } from '../plugins/config/load.ts';
import { readConfigInWorker } from '../plugins/config/load-in-worker.ts';
import type { Config } from '../plugins/config/schema.ts';
import { bearer, build, sha256, until, writeConfig } from './helper.ts';
import { runServer, type ServerProcess } from './process.ts';
import { noRedis, startRedis } from './redis.ts';
import { open } from './sse-client.ts';
import { STOP, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** Returns the log lines with this message. */
const linesWith = ({ lines }: ServerProcess, message: RegExp) => lines.filter(({ msg }) => message.test(String(msg)));

/** Sends SIGHUP and waits for one more line with this message. */
async function reload(server: ServerProcess, message: RegExp): Promise<void> {
  const before = linesWith(server, message).length;
  server.child.kill('SIGHUP');
  await until(() => linesWith(server, message).length > before, `the log has ${message}`);
}

t.test('SIGHUP reloads keys, models and provider keys; an invalid file changes nothing', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const file = writeConfig(t, '');
  /** Writes a configuration with two client keys, called like their names, one model, and one provider key. */
  const write = (name: string, more = '') => {
    writeFileSync(
      file,
      `keys: [{ name: ${name}, sha256: ${sha256(name)} }, { name: kept, sha256: ${sha256('kept')} }]
providers: { it: { type: openai, api: chat, baseUrl: "${upstream.url}/v1", apiKeys: [CANARY-${name}] } }
models: [{ name: m-${name}, targets: [{ provider: it, model: x }] }]\n${more}`,
    );
  };
  write('old');
  const server = await runServer(t, { CONFIG_FILE: file, STREAM_GRACE: 'CANARY' });
  const warnings = () => linesWith(server, /unknown environment variables.* STREAM_GRACE_MS/).length;
  await until(() => warnings() === 1, 'an unknown variable is named at the start');
  /** Returns the models of a key, or the status if the key is refused. */
  const models = async (key: string) => {
    const response = await fetch(`${server.url}/v1/models`, { headers: bearer(key) });
    if (response.status !== 200) return response.status;
    return ((await response.json()) as { data: { id: string }[] }).data.map(({ id }) => id);
  };
  const ask = async (key: string) => {
    const reading = await open(`${server.url}/ask/stream?question=q`, { headers: bearer(key) });
    await reading.until('delta');
    return reading;
  };
  const providerKeys = () => upstream.calls.map(({ request }) => request.headers.authorization);
  t.same([await models('old'), await models('new')], [['m-old'], 401], 'before the reload');
  const running = await ask('kept');
  const revoked = await ask('old');

  write('new');
  await reload(server, /configuration reloaded/);
  t.same([await models('old'), await models('new')], [401, ['m-new']], 'the new key and model are valid');
  t.equal(warnings(), 2, 'an unknown variable is named at the reload');
  t.match(
    linesWith(server, /configuration reloaded/)[0],
    {
      audit: 'config_reloaded',
      keys: 2,
      apiKeys: { it: 1 },
      keysAdded: ['new'],
      keysRemoved: ['old'],
      modelsAdded: ['m-new'],
      modelsRemoved: ['m-old'],
    },
    'the log has the numbers of keys, and the names of those that have changed',
  );
  await ask('new');
  t.same(providerKeys().slice(1), ['Bearer CANARY-old', 'Bearer CANARY-new'], 'the next question has the new key');
  t.equal((await revoked.until('error')).json.code, 'revoked', 'the answer of the removed key has ended');
  (await upstream.call(1)).response.end(text('b') + STOP);
  t.equal((await running.until('end')).json.answer, 'ab', 'the answer that was running is complete');

  write('third', 'nonsense: CANARY\n');
  await reload(server, /nothing has changed/);
  t.same([await models('third'), await models('new')], [401, ['m-new']], 'an invalid file changes nothing');
  await ask('new');
  t.equal(providerKeys()[3], 'Bearer CANARY-new', 'nor does it change the key of the provider');
  writeFileSync(file, '');
  await reload(server, /nothing has changed/);
  t.equal((await fetch(`${server.url}/v1/models`)).status, 401, 'an empty file does not disable authentication');
  t.match(
    JSON.stringify(server.lines.find(({ audit }) => audit === 'config_refused')),
    /"level":50.*nonsense/,
    'the log names the invalid setting',
  );

  t.equal(linesWith(server, /needs a restart/).length, 0, 'no setting needed a restart so far');
  write('new', 'streams: { graceMs: 1 }\nlogLevel: debug\n');
  await reload(server, /configuration reloaded/);
  await until(() => linesWith(server, /needs a restart/).length === 1, 'the log names settings that are not applied');
  t.same(linesWith(server, /needs a restart/)[0]?.settings, ['logLevel', 'streams.graceMs']);

  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  t.match(metrics, /^sluice_config_reloads_total\{outcome="applied"\} 2$/m);
  t.match(metrics, /^sluice_config_reloads_total\{outcome="refused"\} 2$/m);
  t.match(metrics, /^sluice_provider_api_keys\{provider="it"\} 1$/m);
  t.notMatch(JSON.stringify(server.lines) + metrics, /CANARY/, 'neither the log nor a metric has a value of the file');
});

t.test('files that are mounted are reloaded when they change, without a signal', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const dir = t.testdir({ v1: { key: 'old\n', other: '' } });
  symlinkSync('v1', `${dir}/..data`);
  symlinkSync('..data/key', `${dir}/key`);
  const write = (model: string) => {
    const yaml = `models: [{ name: ${model}, targets: [{ provider: bella, model: x }] }]\n`;
    writeFileSync(`${dir}/sluice.yaml~`, yaml);
    renameSync(`${dir}/sluice.yaml~`, `${dir}/sluice.yaml`);
  };
  write('one');
  const env = {
    CONFIG_FILE: `${dir}/sluice.yaml`,
    BELLA_API_KEY_FILE: `${dir}/key`,
    BELLA_BASE_URL: `${upstream.url}/v1`,
  };
  const server = await runServer(t, env);
  const ask = async (model: string) => {
    await (await open(`${server.url}/ask/stream?question=q&model=${model}`)).until('delta');
  };
  await ask('one');
  mkdirSync(`${dir}/v2`);
  writeFileSync(`${dir}/v2/key`, 'new\n');
  symlinkSync('v2', `${dir}/..data_tmp`);
  renameSync(`${dir}/..data_tmp`, `${dir}/..data`);
  write('two');
  await until(() => linesWith(server, /configuration reloaded/).length === 1, 'the service reloads');
  await ask('two');
  const sent = upstream.calls.map(({ request }) => request.headers.authorization);
  t.same(sent, ['Bearer old', 'Bearer new'], 'the next question is sent with the new key');
});

const deadlines = (totalMs: number): string =>
  `providers: { demo: { type: demo } }\nkeys: [{ name: a, sha256: ${sha256('a')} }]\nmodels: [{ name: m, totalMs: ${totalMs}, targets: [{ provider: demo, model: x }] }]\n`;
const HOUR = 3_600_000;

t.test('read tickets and expiry in Redis follow a deadline that a reload changes', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const CONFIG_FILE = writeConfig(t, deadlines(HOUR));
  const env = { CONFIG_FILE, REDIS_URL: redis.url, TICKET_SECRET: 'a secret of at least 32 characters' };
  const app = await build(t, { env });
  /** Starts an answer. Returns the milliseconds until its ticket, its resource and its keys in Redis expire. */
  const lifetimes = async () => {
    const headers = { ...bearer('a'), 'content-type': 'application/json' };
    const response = await app.inject({
      method: 'POST',
      url: '/streams',
      headers,
      body: '{"question":"q","model":"m"}',
    });
    const { id, url, expiresAt } = response.json() as { id: string; url: string; expiresAt: string };
    const [ticket = ''] = (new URL(url, 'http://x').searchParams.get('ticket') ?? '').split('.');
    const { expires } = JSON.parse(Buffer.from(ticket, 'base64url').toString()) as { expires: number };
    return [expires - Date.now(), Date.parse(expiresAt) - Date.now(), await redis.client.pttl(`sluice:meta:{${id}}`)];
  };
  const minima = (totalMs: number) => [totalMs, totalMs, 2 * totalMs];
  for (const hours of [1, 10, 2]) {
    const total = hours * HOUR;
    writeFileSync(CONFIG_FILE, deadlines(total));
    if (hours > 1) app.reloadConfig(readConfig(env).config as Config);
    for (const [i, ms] of (await lifetimes()).entries()) {
      const least = minima(total)[i] as number;
      t.ok(ms > least && ms < least + HOUR / 2, `${hours} h: ${ms} ms, at least ${least} ms`);
    }
  }
});

/** A large configuration. The cost of its parts grows with their number. */
function largeConfig(keys: number, models: number): string {
  const key = (i: number) =>
    `  - { name: key${i}, sha256: ${sha256(String(i))}, models: [m1, m2], requestsPerMinute: 60 }\n`;
  const model = (i: number) => `  - { name: m${i}, targets: [{ provider: demo, model: x }] }\n`;
  const list = (count: number, item: (i: number) => string) =>
    Array.from({ length: count }, (_, i) => item(i)).join('');
  return `providers: { demo: { type: demo } }\nkeys:\n${list(keys, key)}models:\n${list(models, model)}`;
}

t.test('streams continue while a large configuration is reloaded', async (t) => {
  const env = { CONFIG_FILE: writeConfig(t, largeConfig(3_000, 300)), LOG_LEVEL: 'silent' };
  const cpuOf = <T>(run: () => T) => {
    const before = process.cpuUsage();
    const result = run();
    const { user, system } = process.cpuUsage(before);
    return { result, cpu: user + system };
  };
  const { result: expected, cpu: readCost } = cpuOf(() => readConfig(env));
  const app = await build(t, { env });

  let turns = 0;
  let isLoading = true;
  const count = () => {
    turns += 1;
    if (isLoading) setImmediate(count);
  };
  setImmediate(count);
  const loaded = await readConfigInWorker(env);
  isLoading = false;
  t.same(loaded, expected, 'the result is that of this thread');
  // In this thread the event loop would turn once or twice.
  t.ok(turns > 100, `the event loop turned ${turns} times`);
  const { cpu: applyCost } = cpuOf(() => app.reloadConfig(loaded.config as Config));
  t.ok(applyCost < readCost / 4, `applying takes ${applyCost} µs, reading ${readCost} µs`);

  const notCloneable = { ...env, X: (() => {}) as unknown as string };
  const { files } = await readConfigInWorker(notCloneable);
  t.same(files, expected.files, 'without a thread the configuration is read in this one');
});
