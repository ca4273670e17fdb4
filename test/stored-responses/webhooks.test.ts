import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer as createTlsServer } from 'node:https';
import { connect, createServer, type LookupFunction } from 'node:net';
import OpenAI from 'openai';
import t, { type Test } from 'tap';
import { ANONYMOUS } from '../../plugins/auth/identity.ts';
import { createDelivery, retryDelayMs } from '../../plugins/webhooks/delivery.ts';
import { encodeEvent, eventId } from '../../plugins/webhooks/event.ts';
import { createMemoryQueue } from '../../plugins/webhooks/memory-queue.ts';
import { post } from '../../plugins/webhooks/post.ts';
import type { WebhookQueue } from '../../plugins/webhooks/queue.ts';
import { signedHeaders } from '../../plugins/webhooks/signature.ts';
import { CERT, KEY } from '../certificate.ts';
import { codeBlock } from '../code-blocks.ts';
import { connectProxy } from '../connect-proxy.ts';
import { captureLog, until, writeConfig } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { freePort } from '../redis.ts';
import { type Call, startUpstream, type Upstream } from '../upstream.ts';
import { FAILURE, finish, startReplicas } from './replicas.ts';

/** The delivery of webhooks to a real HTTP server. */

const SECRET = `whsec_${Buffer.from('a secret of twenty-four.').toString('base64')}`;
const OTHER_SECRET = `whsec_${'B'.repeat(32)}`;
const { webhooks } = new OpenAI({ apiKey: 'none', webhookSecret: SECRET });

const envOf = ({ url }: Upstream) => ({
  RESPONSES_WEBHOOK_URL: `${url}/hook?tenant=1`,
  RESPONSES_WEBHOOK_SECRET: SECRET,
});
const reply =
  (status: number, headers: Record<string, string> = {}) =>
  ({ response }: Call) => {
    response.writeHead(status, headers).end('text that nobody reads');
  };

t.test('the end of a background answer is posted once, as `webhooks.unwrap` of openai verifies it', async (t) => {
  const receiver = await startUpstream(t, reply(200));
  const { logTo, log } = captureLog();
  const replicas = await startReplicas(t, 1, { env: envOf(receiver), logTo });
  const [app] = replicas.apps as [(typeof replicas.apps)[number]];
  const expected: Record<string, string> = {};
  const before = Math.floor(Date.now() / 1_000);
  const cases = [
    [finish('stop'), 'response.completed'],
    [finish('length'), 'response.incomplete'],
    [FAILURE, 'response.failed'],
    ['stop', 'response.cancelled'],
  ] as const;
  for (const [ending, type] of cases) {
    const asked = await replicas.ask(app, ANONYMOUS, 'background');
    if (ending === 'stop') await asked.stream.stop();
    else asked.end(ending);
    await asked.ended;
    expected[`resp_${asked.id}`] = type;
  }
  for (const stored of ['foreground', undefined] as const) {
    const other = await replicas.ask(app, ANONYMOUS, stored);
    other.end(finish('stop'));
    await other.ended;
  }
  const deleted = await replicas.ask(app, ANONYMOUS, 'background');
  await app.storedResponses.save(deleted.id, ANONYMOUS, '{}');
  t.equal(await app.storedResponses.delete(deleted.id, ANONYMOUS), true);
  deleted.end(finish('stop'));
  await deleted.ended;
  await app.close();

  const seen: Record<string, string> = {};
  for (const { body, request } of receiver.calls) {
    const event = await webhooks.unwrap(body, request.headers as Record<string, string>);
    if (!('data' in event) || !('id' in event.data)) throw new Error('an event of a response');
    seen[event.data.id] = event.type;
    const id = event.data.id.replace('resp_', 'evt_');
    t.match(event, { object: 'event', id }, 'the id is that of the stream');
    t.ok(event.created_at >= before && event.created_at <= Date.now() / 1_000, 'in seconds since 1970');
    t.match(request, { method: 'POST', url: '/hook?tenant=1', headers: { 'content-type': 'application/json' } });
    t.equal(request.headers['webhook-id'], id);
    await t.rejects(webhooks.unwrap(`${body} `, request.headers as Record<string, string>), 'another body');
  }
  t.same(seen, expected, 'one event for each background answer, and none for the others');
  t.equal(receiver.calls.length, cases.length, 'each is sent once');
  t.notMatch(log(), /start end|whsec_|tenant/, 'no text and no secret is logged');
});

interface Harness {
  readonly queue: WebhookQueue;
  readonly clock: ManualClock;
  readonly outcomes: string[];
  /** Number of attempts that have begun. */
  readonly begun: () => number;
  readonly lines: unknown[];
  /** Adds an event, and waits until its first attempt has an outcome. */
  deliver(id: string): Promise<void>;
  close(): Promise<void>;
}

/** A delivery with a clock of its own, in memory. */
function createHarness(
  url: string,
  options: {
    lookup?: LookupFunction;
    proxyUrl?: string;
    allowPrivate?: boolean;
    retryMs?: number;
    maxClaimed?: number;
  } = {},
): Harness {
  const { lookup, proxyUrl, allowPrivate = false, retryMs = 86_400_000, maxClaimed = 8 } = options;
  const clock = manualClock();
  const outcomes: string[] = [];
  const lines: unknown[] = [];
  const inc = ({ outcome }: { outcome: string }, count = 1) => outcomes.push(...Array(count).fill(outcome));
  const note = (line: unknown) => lines.push(line);
  let begun = 0;
  const waiting = createMemoryQueue({ clock, onDue: () => delivery.run(), onDropped: () => outcomes.push('dropped') });
  const queue: WebhookQueue = {
    ...waiting,
    async claim(count) {
      const claimed = await waiting.claim(Math.min(count, maxClaimed));
      begun += claimed.length;
      return claimed;
    },
  };
  const delivery = createDelivery({
    endpoint: { url, allowPrivate, proxyUrl, lookup },
    ...{ secrets: [SECRET], timeoutMs: 10_000, retryMs, queue, clock },
    metrics: { webhooks: { inc } } as never,
    log: { info: note, warn: note, error: note } as never,
  });
  return {
    queue,
    clock,
    outcomes,
    begun: () => begun,
    lines,
    async deliver(id) {
      const count = outcomes.length;
      queue.add(id, JSON.stringify({ id }));
      clock.advance(0);
      await until(() => outcomes.length > count, 'the attempt has ended');
    },
    close: () => delivery.close(),
  };
}

/** Advances the clock until the next attempt begins, and waits for its outcome. Returns the milliseconds that it took. */
async function nextAttempt({ clock, outcomes, begun }: Harness): Promise<number> {
  const [ended, before, from] = [outcomes.length, begun(), clock.now()];
  // Behind the outcome, the queue sets the timer of the next attempt.
  while (clock.pending === 0) await new Promise(setImmediate);
  while (begun() === before) {
    clock.advance(1_000);
    await new Promise(setImmediate);
  }
  await until(() => outcomes.length > ended, 'the attempt has ended');
  return clock.now() - from;
}

t.test('only a 2xx is a success; everything else is repeated with the same id and a new signature', async (t) => {
  const statuses = [301, 308, 400, 404, 429, 500, 503];
  const receiver = await startUpstream(t, (call) => {
    const status = statuses[receiver.calls.length - 1] ?? 204;
    reply(status, status < 400 ? { location: `${receiver.url}/elsewhere` } : {})(call);
  });
  const harness = createHarness(receiver.url);
  await harness.deliver('a');
  const waits: number[] = [];
  while (harness.outcomes.at(-1) !== 'delivered') waits.push(await nextAttempt(harness));
  t.same(harness.outcomes, [...statuses.map(() => 'retry'), 'delivered']);
  t.equal(receiver.calls.length, statuses.length + 1, 'no redirect was followed');
  t.equal(new Set(receiver.calls.map(({ request }) => request.headers['webhook-id'])).size, 1);
  for (const { body, request } of receiver.calls) {
    t.equal(request.url, '/');
    await webhooks.verifySignature(body, request.headers as Record<string, string>);
  }
  t.ok((waits.at(-1) as number) > 4 * (waits[0] as number), `the pauses grow: ${waits}`);
  t.equal(harness.lines.length, 2, 'one line at the first failure, one when it works again');
  await harness.deliver('b');
  t.equal(harness.lines.length, 2, 'a success alone has no line');
  statuses.push(204, 204, 500);
  await harness.deliver('c');
  t.equal(harness.lines.length, 3, 'the next failure has one');
  await harness.close();
});

t.test('a receiver that answers 410 gets this event no more, and the next one once', async (t) => {
  const receiver = await startUpstream(t, reply(410));
  const harness = createHarness(receiver.url);
  await harness.deliver('a');
  await harness.deliver('b');
  t.same(harness.outcomes, ['failed', 'failed']);
  t.equal(harness.queue.close(), 0, 'nothing waits');
  t.match(harness.lines, [
    { stream: 'a', reason: 410 },
    { stream: 'b', reason: 410 },
  ]);
});

t.test('an event is given up when its next attempt would be too late', async (t) => {
  const receiver = await startUpstream(t, reply(500));
  const harness = createHarness(receiver.url, { retryMs: 30_000 });
  await harness.deliver('a');
  while (harness.outcomes.at(-1) !== 'failed') await nextAttempt(harness);
  t.ok(harness.clock.now() <= 30_000);
  t.ok(receiver.calls.length > 2, `after ${receiver.calls.length} attempts`);
  t.equal(harness.queue.close(), 0, 'nothing waits');
});

t.test('the pause between attempts', (t) => {
  const HOUR = 3_600_000;
  for (const [ageMs, retryAfterMs, random, expected] of [
    [0, 0, 0.5, 5_000],
    [0, 0, 0, 3_750],
    [0, 0, 1, 6_250],
    [60_000, 0, 0.5, 60_000],
    [10 * HOUR, 0, 0.5, HOUR],
    [0, 60_000, 0.5, 60_000],
    [0, 100 * HOUR, 0.5, HOUR],
    [120_000, 60_000, 0.5, 120_000],
  ] as const) {
    t.equal(retryDelayMs(ageMs, retryAfterMs, random), expected);
  }
  t.end();
});

t.test('a receiver that never answers is given a time limit, and one that sends without end a size', async (t) => {
  let isEndless = false;
  const receiver = await startUpstream(t, ({ response }) => {
    if (!isEndless) return;
    const write = () => void response.write('x'.repeat(65_536), (error) => error || setImmediate(write));
    response.writeHead(200);
    write();
  });
  const harness = createHarness(receiver.url);
  harness.queue.add('a', '{}');
  harness.clock.advance(0);
  await receiver.call(1);
  harness.clock.advance(10_000);
  await until(() => harness.outcomes.length > 0, 'the time limit ends the attempt');
  t.same(harness.outcomes, ['retry']);
  t.match(harness.lines, [{ reason: 'timeout' }]);
  await receiver.calls[0]?.closed;
  isEndless = true;
  const options = { url: receiver.url, allowPrivate: false, headers: {}, body: '{}' };
  let status = 0;
  void post(options, new AbortController().signal).then((reply) => {
    status = reply.status;
  });
  await until(() => status === 200, 'a response without an end is cut by its size alone');
  await nextAttempt(harness);
  t.same(harness.outcomes, ['retry', 'delivered'], 'its status has arrived');
  await receiver.calls[2]?.closed;
});

t.test('a receiver that never ends its response has taken the event', async (t) => {
  const receiver = await startUpstream(t, ({ response }) => void response.writeHead(202).write('x'));
  const harness = createHarness(receiver.url);
  harness.queue.add('a', '{}');
  harness.clock.advance(0);
  await receiver.call(1);
  // Its headers may be on their way.
  for (let turns = 0; turns < 100; turns++) await new Promise(setImmediate);
  harness.clock.advance(10_000);
  await until(() => harness.outcomes.length > 0, 'the time limit ends the attempt');
  t.same(harness.outcomes, ['delivered']);
});

t.test('a forbidden address is refused at each connection, also if the name had another before', async (t) => {
  const receiver = await startUpstream(t, reply(200));
  const { port } = new URL(receiver.url);
  let address = '169.254.169.254';
  const lookup: LookupFunction = (_name, _options, done) => done(null, [{ address, family: 4 }]);
  const harness = createHarness(`http://hooks.example:${port}`, { lookup });
  await harness.deliver('a');
  t.match(harness.lines, [{ reason: 'forbidden_address' }]);
  t.equal(receiver.calls.length, 0);
  address = '127.0.0.1';
  await nextAttempt(harness);
  t.same(harness.outcomes, ['retry', 'delivered'], 'the name has another address now');
  address = 'fe80::1';
  await harness.deliver('b');
  t.same(harness.outcomes, ['retry', 'delivered', 'retry'], 'nothing is remembered of the last connection');
  await harness.close();
  const allowed = createHarness(`http://hooks.example:${port}`, {
    allowPrivate: true,
    lookup: (_name, _options, done) => done(null, [{ address: '127.0.0.1', family: 4 }]),
  });
  await allowed.deliver('c');
  t.same(allowed.outcomes, ['delivered']);
});

t.test('while a secret is replaced, receivers that have either of both verify a message', async (t) => {
  const receiver = await startUpstream(t, reply(200));
  const env = { ...envOf(receiver), RESPONSES_WEBHOOK_SECRET: `${OTHER_SECRET},${SECRET}` };
  const replicas = await startReplicas(t, 1, { env });
  const [app] = replicas.apps as [(typeof replicas.apps)[number]];
  const asked = await replicas.ask(app, ANONYMOUS, 'background');
  asked.end(finish('stop'));
  const { body, request } = await receiver.call(1);
  const headers = request.headers as Record<string, string>;
  for (const secret of [OTHER_SECRET, SECRET])
    t.match(await webhooks.unwrap(body, headers, secret), { data: { id: `resp_${asked.id}` } });
  await t.rejects(webhooks.unwrap(body, headers, `whsec_${'C'.repeat(32)}`), 'another secret');
});

t.test('webhooks use the proxy of the providers, with its exceptions', async (t) => {
  const proxy = await connectProxy(t);
  const receiver = await startUpstream(t, reply(200));
  const { port } = new URL(receiver.url);
  const deliver = async (env: Record<string, string>) => {
    const count = receiver.calls.length;
    const url = { RESPONSES_WEBHOOK_URL: `http://hooks.example:${port}/hook`, RESPONSES_WEBHOOK_SECRET: SECRET };
    const webhookLookup: LookupFunction = (_name, _options, done) => done(null, [{ address: '127.0.0.1', family: 4 }]);
    const replicas = await startReplicas(t, 1, { env: { ...url, ...env }, webhookLookup });
    const [app] = replicas.apps as [(typeof replicas.apps)[number]];
    const asked = await replicas.ask(app, ANONYMOUS, 'background');
    asked.end(finish('stop'));
    await until(async () => receiver.calls.length > count, 'it is delivered');
    await app.close();
  };
  const withUser = proxy.url.replace('//', '//us%40er:pass@');
  await deliver({ HTTP_PROXY: withUser });
  t.same([proxy.destinations, proxy.credentials], [[`hooks.example:${port}`], ['us@er:pass']], 'by name');
  t.match(receiver.calls[0]?.request, { url: '/hook', headers: { host: `hooks.example:${port}` } });
  await deliver({ HTTP_PROXY: proxy.url, NO_PROXY: 'hooks.example' });
  const own = (value: string) => ({ CONFIG_FILE: writeConfig(t, `responses: { webhook: { proxy: ${value} } }`) });
  await deliver({ HTTP_PROXY: proxy.url, ...own('false') });
  t.equal(proxy.destinations.length, 1, 'not for exceptions');
  await deliver(own(JSON.stringify(proxy.url)));
  t.equal(proxy.destinations.length, 2);
});

t.test(
  'a proxy that refuses or is not there is a failed attempt, and one that is silent has a time limit',
  async (t) => {
    const proxy = await connectProxy(t);
    const receiver = await startUpstream(t, reply(200));
    const harness = createHarness(receiver.url, { proxyUrl: proxy.url });
    proxy.refuse = (client) => void client.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    await harness.deliver('a');
    t.match(harness.lines, [{ reason: 'proxy' }]);
    proxy.refuse = () => {};
    harness.queue.add('b', '{}');
    harness.clock.advance(0);
    await until(() => proxy.destinations.length === 2, 'the proxy is asked');
    harness.clock.advance(10_000);
    await until(() => harness.outcomes.length >= 2, 'the time limit ends the attempt');
    proxy.refuse = undefined;
    await nextAttempt(harness);
    t.ok(harness.outcomes.includes('delivered'));
    await harness.close();
    const away = createHarness(receiver.url, { proxyUrl: 'http://127.0.0.1:9' });
    await away.deliver('c');
    t.match(away.lines, [{ reason: 'proxy' }]);
  },
);

t.test('webhooks reach a receiver with TLS through the proxy, and its certificate is checked', async (t) => {
  const proxy = await connectProxy(t);
  const hosts: unknown[] = [];
  const server = createTlsServer({ cert: CERT, key: KEY }, ({ headers }, response) => {
    hosts.push(headers.host);
    response.writeHead(204).end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as { port: number };
  // In place of the default port.
  proxy.refuse = (client) => {
    const receiver = connect(port, '127.0.0.1', () => client.write('HTTP/1.1 200 OK\r\n\r\n'));
    receiver.on('error', () => client.destroy()).on('close', () => client.destroy());
    client.on('error', () => {}).on('close', () => receiver.destroy());
    client.pipe(receiver).pipe(client);
  };
  const options = { url: 'https://hooks.example/', proxyUrl: proxy.url, allowPrivate: false, headers: {}, body: '{}' };
  const send = () => post(options, new AbortController().signal);
  t.match(await send().catch(({ code }) => code), /CERT|SELF_SIGNED/, 'the certificate is of nobody');
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
  try {
    t.match(await send(), { status: 204 });
  } finally {
    delete process.env.NODE_TLS_REJECT_UNAUTHORIZED;
  }
  t.same(hosts, ['hooks.example']);
  t.same(proxy.destinations, ['hooks.example:443', 'hooks.example:443']);
});

t.test('at most eight attempts run at the same time, and all events are delivered', async (t) => {
  const open: Call[] = [];
  const receiver = await startUpstream(t, (call) => void open.push(call));
  const harness = createHarness(receiver.url);
  for (let i = 0; i < 20; i++) harness.queue.add(`e${i}`, '{}');
  harness.clock.advance(0);
  await until(() => open.length === 8, 'eight attempts run');
  for (let turns = 0; turns < 50; turns++) await new Promise(setImmediate);
  t.equal(open.length, 8, 'and no more');
  let most = 0;
  while (receiver.calls.length < 20 || open.length > 0) {
    open.shift()?.response.writeHead(200).end();
    for (let turns = 0; turns < 20; turns++) await new Promise(setImmediate);
    most = Math.max(most, open.length);
  }
  await until(() => harness.outcomes.length === 20, 'all are delivered');
  t.ok(most <= 8, `${most} attempts ran at the same time`);
  t.equal(new Set(receiver.calls.map(({ request }) => request.headers['webhook-id'])).size, 20);
});

t.test('a queue that returns few events at a time keeps all attempts busy', async (t) => {
  const open: Call[] = [];
  const receiver = await startUpstream(t, (call) => void open.push(call));
  const harness = createHarness(receiver.url, { maxClaimed: 1 });
  for (let i = 0; i < 9; i++) harness.queue.add(`e${i}`, '{}');
  harness.clock.advance(0);
  await until(() => open.length === 8, 'eight attempts run');
  t.equal(harness.begun(), 8, 'and no more');
  open.shift()?.response.writeHead(200).end();
  await until(() => open.length === 8, 'the next one begins');
  for (const { response } of open) response.writeHead(200).end();
  await until(() => harness.outcomes.length === 9, 'all are delivered');
});

t.test('ten thousand events wait; beyond, the oldest is dropped', async (t) => {
  const harness = createHarness('http://127.0.0.1:9');
  for (let i = 0; i < 10_002; i++) harness.queue.add(`e${i}`, '{}');
  t.same(harness.outcomes, ['dropped', 'dropped']);
  const [first] = await harness.queue.claim(1);
  t.equal(first?.id, 'e2');
  t.equal(harness.queue.close(), 10_000);
  t.equal(harness.clock.pending, 0, 'no timer is left');
});

t.test('a process that ends tries once more what waits, and counts what is lost', async (t) => {
  const statuses = [500, 500, 200, 500];
  const receiver = await startUpstream(t, (call) => reply(statuses[receiver.calls.length - 1] as number)(call));
  const harness = createHarness(receiver.url);
  await harness.deliver('a');
  await harness.deliver('b');
  await harness.close();
  t.same(harness.outcomes, ['retry', 'retry', 'delivered', 'retry', 'dropped']);
  t.match(harness.lines.at(-1), { webhooks: 1 });
  t.equal(harness.clock.pending, 0, 'no timer is left');
});

t.test('a process that ends does not wait for a receiver that hangs', async (t) => {
  const receiver = await startUpstream(t, () => {});
  const harness = createHarness(receiver.url);
  harness.queue.add('a', '{}');
  harness.clock.advance(0);
  await receiver.call(1);
  const closed = harness.close();
  for (let turns = 0; turns < 10; turns++) await new Promise(setImmediate);
  harness.clock.advance(5_000);
  await closed;
  t.same(harness.outcomes, ['dropped']);
  await receiver.calls[0]?.closed;
});

t.test('a receiver that is not there', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  const harness = createHarness(`http://127.0.0.1:${port}`);
  await harness.deliver('a');
  t.match(harness.lines, [{ stream: 'a', reason: 'ECONNREFUSED' }]);
  t.same(harness.outcomes, ['retry']);
});

t.test('the receiver of docs/webhooks.md takes an event, and refuses a forged one', async (t) => {
  const port = await freePort();
  const code = codeBlock(readFileSync('docs/webhooks.md', 'utf8'), 'js', 'createServer');
  const file = `${t.testdir({ 'receiver.mjs': code.replace('listen(4000)', `listen(${port}, () => console.log('up'))`) })}`;
  const child = spawn(process.execPath, [`${file}/receiver.mjs`], {
    env: { RESPONSES_WEBHOOK_SECRET: SECRET },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (output += text));
  await until(() => output !== '', 'it listens');
  const event = { id: 'x', status: 'completed', endedAt: 0 } as const;
  const body = encodeEvent(event);
  const message = { id: eventId('x'), body };
  const url = `http://127.0.0.1:${port}`;
  for (const [headers, status] of [
    [signedHeaders(message, [SECRET], Date.now()), 204],
    [signedHeaders(message, [`whsec_${'A'.repeat(32)}`], Date.now()), 400],
    [signedHeaders(message, [SECRET], Date.now() - 600_000), 400],
  ] as const) {
    const reply = await post({ url, allowPrivate: false, headers, body }, new AbortController().signal);
    t.equal(reply.status, status);
  }
  await until(() => /\nresponse.completed resp_x\n$/.test(output), 'it has the event, once');
});

t.test('nothing is sent, and nothing is counted, without a webhook', async (t: Test) => {
  const replicas = await startReplicas(t, 1);
  const [app] = replicas.apps as [(typeof replicas.apps)[number]];
  const asked = await replicas.ask(app, ANONYMOUS, 'background');
  asked.end(finish('stop'));
  await asked.ended;
  t.equal(app.webhooks, undefined);
  t.equal(await metricValue(app, 'sluice_webhooks_total'), 0);
});
