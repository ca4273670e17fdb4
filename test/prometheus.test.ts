import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { launch, noBrowser } from './browser.ts';
import { drawDashboard, type Series } from './dashboard.ts';
import { bearer, sha256, until } from './helper.ts';
import { postJson } from './post-json.ts';
import { runServer, type ServerProcess } from './process.ts';
import { freePort, isInstalled, noRedis, startRedis } from './redis.ts';
import { open, readAll } from './sse-client.ts';
import { chunk, DONE, type Script, STOP, sse, startUpstream, text } from './upstream.ts';

/** Checks the rules and the dashboard of `deploy/` with a real Prometheus that scrapes a service under load. */

const run = promisify(execFile);
const noPrometheus = noRedis || (isInstalled('promtool', '--version') ? false : 'promtool is not installed');

interface Dashboard {
  readonly panels: { type: string; title: string; targets?: { expr: string; legendFormat: string }[] }[];
}
const dashboard = JSON.parse(readFileSync('deploy/grafana/dashboards/sluice.json', 'utf8')) as Dashboard;

t.test(
  'the Prometheus configuration and alerts are valid, and the alerts pass their tests',
  { skip: noPrometheus },
  async (t) => {
    await run('promtool', ['check', 'config', '--lint=all', 'deploy/prometheus/prometheus.yml']);
    await run('promtool', ['check', 'rules', 'deploy/prometheus/alerts.yml']);
    await run('promtool', ['test', 'rules', 'deploy/prometheus/alerts.test.yml']);
    t.pass('promtool accepts configuration, rules and tests');
  },
);

t.test('docs/operations.md lists every metric, and every name in documents, alerts and dashboard exists', async (t) => {
  const docs = readFileSync('docs/operations.md', 'utf8');
  const { url } = await runServer(t, { REDIS_URL: 'redis://127.0.0.1:1', LOG_LEVEL: 'info' });
  const exposed = new Set(
    [...(await (await fetch(`${url}/metrics`)).text()).matchAll(/^# TYPE (sluice_\w+)/gm)].map(
      ([, name]) => name as string,
    ),
  );
  t.ok(exposed.size > 30, `the service exposes ${exposed.size} metrics`);
  for (const name of exposed) t.ok(docs.includes(`\`${name}`), `docs/operations.md lists ${name}`);
  for (const file of ['docs/operations.md', 'deploy/prometheus/alerts.yml', 'deploy/grafana/dashboards/sluice.json']) {
    for (const [name] of readFileSync(file, 'utf8').matchAll(/sluice_[a-z_]+[a-z]/g)) {
      t.ok(exposed.has(name.replace(/_bucket$/, '')), `${name} in ${file} exists`);
    }
  }
});

let flakyCalls = 0;

/**
 * Answers, fails or stays silent, depending on the question; the models `broken` and `locked` always fail, and `flaky`
 * every second time.
 */
const mixedResponses: Script = async ({ body, response }) => {
  const { messages, model } = JSON.parse(body) as { messages: { content: string }[]; model: string };
  const question = messages.at(-1)?.content ?? '';
  if (model === 'flaky' && flakyCalls++ % 2 === 0) return void response.writeHead(503).end();
  if (model === 'broken') return void response.writeHead(503).end();
  if (model === 'locked') return void response.writeHead(401).end();
  if (question.includes('silent')) return;
  sse(response);
  if (question.includes('junk')) return void response.end('data: {not json\n\n');
  const length = question.includes('long') ? 300 : 10 + Math.floor(Math.random() * 60);
  for (let i = 0; i < length && !response.destroyed; i++) {
    response.write(text(`word ${i} `));
    await sleep(10 + Math.random() * 30); // Paces the answer.
  }
  response.write(chunk({}, 'stop', { usage: { prompt_tokens: 20, completion_tokens: length } }));
  response.end(STOP + DONE);
};

/** Asks questions of every kind for some seconds and waits until all have ended. */
async function load({ url }: ServerProcess, seconds: number): Promise<void> {
  const ask = `${url}/ask/stream?question=`;
  const end = performance.now() + seconds * 1_000;
  const running: Promise<unknown>[] = [];
  const questions = [
    'fallback',
    'retried',
    'refused',
    'silent',
    'junk',
    'disconnected',
    'resumed',
    'stopped',
    'spent',
    'ticket',
    'unauthenticated',
    'background',
    ...Array<string>(12).fill('ok'),
  ];
  for (let i = 0; performance.now() < end; i++) {
    const question = questions[i % questions.length] as string;
    running.push(askOne(question).catch(() => {}));
    await sleep(40); // Paces the load: at most 25 questions per second.
  }
  await Promise.all(running);

  async function askOne(question: string): Promise<void> {
    const headers = bearer('key');
    if (['ok', 'junk', 'silent'].includes(question)) return void (await readAll(ask + question, { headers }));
    if (question === 'fallback') return void (await readAll(`${ask}q&model=steady`, { headers }));
    if (question === 'retried') return void (await readAll(`${ask}q&model=flaky/flaky`, { headers }));
    if (question === 'refused') return void (await readAll(`${ask}q&model=locked/locked`, { headers }));
    if (question === 'spent') return void (await readAll(`${ask}q&model=steady`, { headers: bearer('poor') }));
    if (question === 'ticket') return void (await postJson(`${url}/tickets`, { visitor: 'v' }, headers));
    if (question === 'unauthenticated') return void (await fetch(`${url}/v1/models`));
    if (question === 'background') {
      const body = { model: 'steady', input: 'q', background: true };
      return void (await postJson(`${url}/v1/responses`, body, headers));
    }
    const reading = await open(`${ask}long ${question}`.replace(' ', '%20'), { headers });
    const { json } = await reading.until('start');
    await reading.until('delta');
    if (question === 'stopped') await fetch(`${url}${json.url}`, { method: 'DELETE', headers });
    else reading.cut();
    if (question === 'resumed') {
      const position = { 'last-event-id': reading.events.at(-1)?.id };
      const resumed = await open(`${url}${json.url}`, { headers: { ...headers, ...position } });
      await sleep(300); // Keeps the second reader connected for a while.
      resumed.cut();
    }
  }
}

t.test('every query of the dashboard has data after a load', { skip: noPrometheus, timeout: 90_000 }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, mixedResponses);
  const webhook = await startUpstream(t, ({ response }) => void response.writeHead(204).end());
  const folder = t.testdir();
  const config = join(folder, 'sluice.yaml');
  writeFileSync(
    config,
    `providers:
  bella: { type: bella, baseUrl: "${upstream.url}/v1", apiKeys: [test-key], models: "*" }
  other: { type: vllm, baseUrl: "${upstream.url}/v1", models: [broken] }
  flaky: { type: vllm, baseUrl: "${upstream.url}/v1", models: [flaky] }
  locked: { type: openai-compatible, baseUrl: "${upstream.url}/v1", apiKeys: [wrong-key], models: [locked] }
models:
  - { name: steady, price: { input: 1, output: 10 }, targets: [{ provider: other, model: broken }, { provider: bella, model: gpt-4o }] }
keys:
  - { name: web, sha256: ${sha256('key')} }
  - { name: poor, sha256: ${sha256('poor')}, budget: { period: day, amount: 0.000001 } }
responses: { webhook: { url: "${webhook.url}", secrets: [whsec_${Buffer.alloc(24).toString('base64')}] } }
limits: { unauthenticatedPerMinute: 5 }
deadlines: { firstTokenMs: 700 }
defaultModel: bella/gpt-4o
`,
  );
  const server = await runServer(t, {
    CONFIG_FILE: config,
    REDIS_URL: redis.url,
    TICKET_SECRET: 'x'.repeat(32),
    STREAM_GRACE_MS: '200',
    MAX_GENERATIONS: '20',
  });
  const prometheus = await startPrometheus(t, folder, server.url);
  const seconds = Number(process.env.LOAD_SECONDS ?? 8);
  // `rate` needs two scrapes: events that happen once must occur after the first scrape of their series.
  await load(server, seconds / 2);
  await sleep(1_500); // Three scrapes.
  redis.child.kill('SIGSTOP');
  await load(server, seconds / 4);
  redis.child.kill('SIGCONT');
  await load(server, seconds / 2);
  await sleep(1_500); // Three scrapes.

  const panels: { title: string; series: Series[] }[] = [];
  for (const { title, targets = [] } of dashboard.panels) {
    const series: Series[] = [];
    for (const { expr, legendFormat } of targets) {
      const query = expr.replaceAll('$__rate_interval', '5s');
      let results: Result[] = [];
      await until(async () => {
        results = await prometheus.range(query, seconds + 40);
        if (results.length > 0 || WITHOUT_DATA.test(expr)) return true;
        await sleep(200); // Limits the rate of queries.
        return false;
      }, `${title} has data: ${expr}`);
      for (const { metric, values } of results) {
        series.push({ name: legendFormat.replace(/{{(\w+)}}/g, (_, label) => metric[label] ?? ''), values });
      }
    }
    if (targets.length > 0) panels.push({ title, series });
  }
  if (process.env.SCREENSHOT && !noBrowser) await drawDashboard(await launch(t), panels, process.env.SCREENSHOT);
});

/** Metrics without data in this load: they need a second replica that dies, or a model that continues answers. */
const WITHOUT_DATA = /sluice_(takeovers|continuations)_total/;

/** One series of a range query. */
interface Result {
  readonly metric: Record<string, string>;
  readonly values: [number, string][];
}

/** Starts a Prometheus that scrapes `target` every 500 ms, and returns a function for range queries. */
async function startPrometheus(t: Test, folder: string, target: string) {
  const port = await freePort();
  const file = join(folder, 'prometheus.yml');
  writeFileSync(
    file,
    readFileSync('deploy/prometheus/prometheus.yml', 'utf8')
      .replace('scrape_interval: 5s', 'scrape_interval: 500ms')
      .replace(/targets: .*/, `targets: ["${new URL(target).host}"]`)
      .replace('[alerts.yml]', '[]'),
  );
  const child = spawn(
    'prometheus',
    [`--config.file=${file}`, `--storage.tsdb.path=${folder}/data`, `--web.listen-address=127.0.0.1:${port}`],
    { stdio: 'ignore' },
  );
  t.teardown(async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  });
  const url = `http://127.0.0.1:${port}`;
  const isReady = () =>
    fetch(`${url}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  await until(isReady, 'Prometheus is ready');
  return {
    async range(query: string, seconds: number): Promise<Result[]> {
      const end = Date.now() / 1_000;
      const parameters = new URLSearchParams({ query, start: String(end - seconds), end: String(end), step: '0.5' });
      const response = await fetch(`${url}/api/v1/query_range?${parameters}`);
      const { status, error, data } = (await response.json()) as {
        status: string;
        error?: string;
        data: { result: Result[] };
      };
      if (status !== 'success') throw new Error(`${query}: ${error}`);
      return data.result.filter(({ values }) => values.some(([, value]) => value !== 'NaN'));
    },
  };
}
