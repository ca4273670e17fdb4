import { Agent, type IncomingMessage, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { bellaAt, deferred, until, writeConfig } from './helper.ts';
import { runServer, type ServerProcess } from './process.ts';
import { DONE, STOP, sse, startUpstream, text, type Upstream } from './upstream.ts';

/** A service that runs out of file descriptors: its newest clients are refused, and nothing else is lost. */

const WORDS = ['one ', 'two ', 'three ', 'four'];
const ANSWER = WORDS.join('');

/** A provider that sends the first word at once and the others after `release`. */
async function startSlowUpstream(t: Test): Promise<Upstream & { release(): void }> {
  const { promise, resolve } = deferred();
  const upstream = await startUpstream(t, async ({ response }) => {
    sse(response).write(text(WORDS[0] as string));
    await promise;
    response.end(WORDS.slice(1).map(text).join('') + STOP + DONE);
  });
  return { ...upstream, release: resolve };
}

/** Result of one question, as its client sees it. */
interface Outcome {
  readonly status: number | undefined;
  body: string;
  /** True if the response is complete. */
  isComplete: boolean;
  readonly headers: IncomingMessage['headers'];
}

/** Asks on a connection of its own, unless there is an agent. Never rejects: without a response, the status is undefined. */
function ask(url: string, path: string, body?: object, agent: Agent | false = false) {
  const outcome: Outcome = { status: undefined, body: '', isComplete: false, headers: {} };
  const done = new Promise<Outcome>((resolve) => {
    const outgoing = request(url + path, {
      agent,
      method: body ? 'POST' : 'GET',
      headers: body && { 'content-type': 'application/json' },
    });
    outgoing.on('error', () => resolve(outcome));
    outgoing.on('response', (response) => {
      Object.assign(outcome, { status: response.statusCode, headers: response.headers });
      response.setEncoding('utf8').on('data', (chunk) => (outcome.body += chunk));
      response
        .on('error', () => {})
        .on('close', () => {
          outcome.isComplete = response.complete;
          resolve(outcome);
        });
    });
    outgoing.end(body && JSON.stringify(body));
  });
  return { outcome, done };
}

const askQuestion = (url: string, agent?: Agent) => ask(url, '/ask/stream', { question: 'q' }, agent);

/** Returns the text of a complete answer; undefined for anything else. */
function answerOf({ status, isComplete, body }: Outcome): string | undefined {
  if (status !== 200 || !isComplete) return undefined;
  const events = body.split('\n').filter((line) => line.startsWith('data: {'));
  const [last] = events.slice(-1).map((line) => JSON.parse(line.slice(6)));
  return last?.type === 'end' ? last.answer : undefined;
}

/** Returns true for a refusal that a client understands, and for a connection that was closed without a response. */
const isRefusal = ({ status, body, headers }: Outcome) =>
  status === undefined ||
  (status === 503 && JSON.parse(body).error.code === 'overloaded' && Number(headers['retry-after']) > 0);

/** Opens connections. Those of `bytes` send them and wait for a response. Returns when each is open or closed. */
async function connections(t: Test, url: string, count: number, bytes?: string): Promise<Socket[]> {
  const { hostname, port } = new URL(url);
  const sockets = Array.from({ length: count }, () => connect(Number(port), hostname));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  await Promise.all(
    sockets.map((socket) => {
      socket.on('error', () => {});
      return new Promise<void>((resolve) => {
        socket.once('close', () => resolve());
        socket.once('connect', () => (bytes ? socket.write(bytes) : resolve()));
        socket.once('data', () => resolve()).resume();
      });
    }),
  );
  return sockets;
}

async function metricOf(server: ServerProcess, name: string, agent?: Agent): Promise<number | undefined> {
  const { body } = await ask(server.url, '/metrics', undefined, agent).done;
  const line = body.split('\n').find((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
  return line === undefined ? undefined : Number(line.split(' ').at(-1));
}

for (const limit of [256, 512, 1_024]) {
  t.test(`with ${limit} open files and six times as many clients, no running stream is lost`, async (t) => {
    const upstream = await startSlowUpstream(t);
    const server = await runServer(t, { ...bellaAt(upstream.url), LOG_LEVEL: 'info' }, { openFiles: limit });
    const { url } = server;
    const lowered = server.lines.find(({ msg }) => String(msg).startsWith('MAX_GENERATIONS lowered'));
    const maxGenerations = Number(lowered?.maxGenerations);
    t.match(lowered, { openFileLimit: limit, configured: 10_000 }, 'the start says that the bound is lowered');
    t.ok(maxGenerations > limit / 5 && maxGenerations < limit / 2, `${maxGenerations} generations`);

    const running = Array.from({ length: 20 }, () => askQuestion(url));
    await until(() => running.every(({ outcome }) => outcome.body.includes('"delta"')), 'streams run');
    const silent = await connections(t, url, 2 * limit);
    const idle = await connections(t, url, 2 * limit, 'GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n');
    t.ok(
      [...silent, ...idle].some(({ destroyed }) => destroyed),
      'not all of them stay open',
    );
    const questions = Array.from({ length: 2 * limit }, () => askQuestion(url));
    const isDecided = ({ status, body }: Outcome) => status === 503 || body.includes('"delta"');
    await until(
      () => questions.filter(({ outcome }) => isDecided(outcome)).length >= maxGenerations - 20,
      'questions are answered until the bound is reached',
    );

    await until(() => questions.some(({ outcome }) => outcome.status === 503), 'the others are refused');
    const active = (await metricOf(server, 'sluice_generations_active')) as number;
    t.ok(active <= maxGenerations, `${active} of at most ${maxGenerations} generations run`);
    t.equal((await ask(url, '/livez').done).status, 200, '/livez answers');
    t.ok(((await metricOf(server, 'process_open_fds')) as number) < limit, '/metrics answers; descriptors are free');

    upstream.release();
    const ended = await Promise.all(running.map(({ done }) => done));
    t.same(new Set(ended.map(answerOf)), new Set([ANSWER]), 'every running stream ends whole');
    const outcomes = await Promise.all(questions.map(({ done }) => done));
    const answered = outcomes.filter((outcome) => answerOf(outcome) === ANSWER);
    t.ok(answered.length > 0, `${answered.length} of the new questions are answered`);
    t.ok(outcomes.some(({ status }) => status === 503));
    const others = outcomes.filter((outcome) => answerOf(outcome) !== ANSWER && !isRefusal(outcome));
    t.same(others, [], 'all others are refused');

    t.equal(answerOf(await askQuestion(url).done), ANSWER, 'the service answers as before');
    t.equal(await metricOf(server, 'sluice_breaker_state'), undefined, 'no circuit breaker has opened');
    for (const socket of [...silent, ...idle]) socket.destroy();
    server.child.kill('SIGTERM');
    t.equal(await server.exit, 0);
    t.notOk(
      server.lines.some(({ level }) => Number(level) >= 50),
      'nothing fails',
    );
  });
}

t.test('without a free descriptor, every timer, handler and metric goes on, and calls are `overloaded`', async (t) => {
  const upstream = await startSlowUpstream(t);
  const named = upstream.url.replace('127.0.0.1', 'localhost');
  const CONFIG_FILE = writeConfig(
    t,
    `
providers:
  a: { type: openai-compatible, baseUrl: ${upstream.url}/v1, models: [m] }
  b: { type: openai-compatible, baseUrl: ${named}/v1, models: [m] }
models:
  - { name: both, targets: [{ provider: a, model: m }, { provider: b, model: m }] }
  - { name: named, targets: [{ provider: b, model: m }, { provider: a, model: m }] }
defaultModel: both
streams: { heartbeatMs: 100 }
`,
  );
  const options = { openFiles: 256, preload: './test/take-descriptors.mjs' };
  const server = await runServer(t, { CONFIG_FILE }, options);
  const { url } = server;
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.teardown(() => agent.destroy());
  const running = askQuestion(url);
  await until(() => running.outcome.body.includes('"delta"'), 'a stream runs');
  t.equal(await metricOf(server, 'process_max_fds', agent), 256);
  const openBefore = (await metricOf(server, 'process_open_fds', agent)) as number;
  t.ok(openBefore < 128, `${openBefore} descriptors are open`);

  server.child.kill('SIGWINCH');
  await until(async () => (await metricOf(server, 'process_open_fds', agent)) === undefined, 'no descriptor is free');
  t.equal((await ask(url, '/livez', undefined, agent).done).status, 200, '/livez answers');
  const metrics = (await ask(url, '/metrics', undefined, agent).done).body;
  t.match(metrics, /^process_max_fds 256$/m, 'metrics that need no descriptor are there');
  t.notMatch(metrics, /^process_resident_memory_bytes /m, 'metrics that cannot be read are left out');

  for (const model of ['both', 'named']) {
    const { status, body } = await ask(url, '/ask/stream', { question: 'q', model }, agent).done;
    t.equal(status, 200);
    t.match(body, /"type":"error","code":"overloaded".*"retryable":true.*"retryAfter":1/, `${model} is overloaded`);
    const messages = [{ role: 'user', content: 'q' }];
    const plain = await ask(url, '/v1/chat/completions', { model, messages }, agent).done;
    t.match(plain, { status: 503, headers: { 'retry-after': '1', 'x-should-retry': undefined } });
    t.equal(JSON.parse(plain.body).error.code, 'overloaded');
  }
  const file = await ask(url, '/docs/static/swagger-ui.css', undefined, agent).done;
  t.match(file, { status: 503, headers: { 'retry-after': '1' } }, 'a file that cannot be opened');
  t.equal(JSON.parse(file.body).error.code, 'overloaded');
  await ask(url, '/livez').done; // A new connection. The system decides what becomes of it.
  const heartbeats = () => running.outcome.body.split(': hb').length;
  const before = heartbeats();
  await until(() => heartbeats() > before + 15, 'timers of a second and more have fired');

  t.equal(upstream.calls.length, 1, 'the provider was not called');
  for (const name of ['sluice_breaker_state', 'sluice_retries_total', 'sluice_fallbacks_total'])
    t.equal(await metricOf(server, name, agent), undefined, `${name} has no value`);
  const attempts = (await ask(url, '/metrics', undefined, agent).done).body.match(/^sluice_upstream_attempts.*/gm);
  t.same(attempts?.map((line) => line.replace(/^[^{]*/, '')).sort(), [
    '{provider="a",outcome="descriptors"} 2',
    '{provider="b",outcome="descriptors"} 2',
  ]);

  server.child.kill('SIGWINCH');
  await until(async () => (await ask(url, '/livez').done).status === 200, 'new connections are accepted again');
  upstream.release();
  t.equal(answerOf(await running.done), ANSWER, 'the running stream ends whole');
  t.equal(answerOf(await askQuestion(url).done), ANSWER, 'the service answers as before');
  server.child.kill('SIGTERM');
  t.equal(await server.exit, 0);
});
