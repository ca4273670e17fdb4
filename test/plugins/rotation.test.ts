import { setImmediate as turn } from 'node:timers/promises';
import { SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { loadConfig } from '../../plugins/config/load.ts';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { bearer, serve, until, writeConfig } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { noRedis } from '../redis.ts';
import { startReplicas } from '../replicas.ts';
import { deltaText, open, type Reading } from '../sse-client.ts';
import { chunk, DONE, sse, text } from '../upstream.ts';
import { randomNumbers } from './random-numbers.ts';

/** Responses that end before a gateway cuts them, by `streams.maxConnectionMs`. Time stands still until it is advanced. */

const MAX_MS = 20_000;

const JWT_SECRET = 'a shared secret of more than thirty-two characters';
const WITH_TOKENS = `jwt: { secret: ${JWT_SECRET}, issuer: 'https://i.example', audience: sluice, algorithms: [HS256] }`;

const token = (seconds: number) =>
  new SignJWT({})
    .setProtectedHeader({ alg: 'HS256' })
    .setIssuer('https://i.example')
    .setAudience('sluice')
    .setSubject('u')
    .setExpirationTime(Math.floor(Date.now() / 1_000) + seconds)
    .sign(new TextEncoder().encode(JWT_SECRET));

/** Starts a service on a manual clock. Each part that is sent reaches all its generations. */
async function setUp(t: Test, streams = `maxConnectionMs: ${MAX_MS}`, file = '') {
  const clock = manualClock();
  const queues = new Set<{ parts: StreamPart[]; wake(): void }>();
  let calls = 0;
  const provider: Provider = {
    name: 'bella',
    async *stream(_, signal) {
      calls += 1;
      const queue = { parts: [] as StreamPart[], wake() {} };
      queues.add(queue);
      signal.addEventListener('abort', () => queue.wake());
      while (!signal.aborted) {
        const part = queue.parts.shift();
        if (part) yield part;
        else await new Promise<void>((resolve) => (queue.wake = resolve));
      }
    },
    async close() {},
  };
  const LONG = 86_400_000;
  const CONFIG_FILE = writeConfig(
    t,
    `streams: { ${streams} }
deadlines: { firstTokenMs: ${LONG}, idleMs: ${LONG}, totalMs: ${LONG} }
${file}`,
  );
  const env = { BELLA_API_KEY: 'k', DEFAULT_MODEL: 'bella/m', STREAM_FLUSH_MS: '0', CONFIG_FILE };
  const { app, url } = await serve(t, { env, providers: { bella: provider }, clock });
  return {
    ...{ app, url, clock },
    calls: () => calls,
    send(part: StreamPart) {
      for (const { parts, wake } of queues) {
        parts.push(part);
        wake();
      }
    },
  };
}

/** Opens one response and returns whether it has ended after the longest time. */
interface Case {
  readonly what: string;
  readonly path: string;
  readonly body?: object;
  readonly headers?: Record<string, string>;
  /** True if the response is expected to end early; `cut` if it is expected to break off. */
  readonly ends: boolean | 'cut';
}

const QUESTION = { question: 'q' };
const CHAT = { model: 'bella/m', messages: [{ role: 'user', content: 'q' }], stream: true };
const UI = { id: 'c', messages: [{ id: 'u', role: 'user', parts: [{ type: 'text', text: 'q' }] }], resumable: true };
const run = (runId: string, forwardedProps = {}) => ({
  ...{ threadId: runId, runId, forwardedProps },
  messages: [{ id: 'u', role: 'user', content: 'q' }],
});
const CASES: readonly Case[] = [
  { what: 'an EventSource', path: '/ask/stream?question=q', ends: true },
  { what: 'GET without Accept', path: '/ask/stream?question=q', headers: { accept: '*/*' }, ends: false },
  { what: 'POST', path: '/ask/stream', body: QUESTION, ends: false },
  { what: 'resumable POST', path: '/ask/stream', body: { ...QUESTION, resumable: true }, ends: true },
  {
    what: 'POST with an idempotency key',
    ...{ path: '/ask/stream', body: QUESTION, headers: { 'idempotency-key': 'k-1' }, ends: false },
  },
  { what: 'Chat Completions', path: '/v1/chat/completions', body: CHAT, ends: false },
  { what: 'resumable Chat Completions', path: '/v1/chat/completions', body: { ...CHAT, resumable: true }, ends: false },
  { what: 'the AI SDK', path: '/ui/chat', body: UI, ends: false },
  { what: 'an AG-UI run', path: '/agui', body: run('r1'), ends: false },
  { what: 'a resumable AG-UI run', path: '/agui', body: run('r2', { resumable: true }), ends: 'cut' },
  { what: 'an AG-UI run that ends with its client', path: '/agui', body: run('r3', { resumable: false }), ends: false },
  { what: 'a reader of a run that ends with its last reader', path: '/agui?runId=r3&offset=-1', ends: false },
  { what: 'a joined AG-UI run', path: '/agui?runId=r1&offset=-1', ends: 'cut' },
];

/** Opens the responses of all cases, lets the longest time pass, and returns how each has ended. */
async function endsOf({ app, url, clock, send, calls }: Awaited<ReturnType<typeof setUp>>, cases: readonly Case[]) {
  const readings: Reading[] = [];
  const ends: Case['ends'][] = cases.map(() => false);
  for (const [i, { path, body, headers }] of cases.entries()) {
    // A response of `/v1` begins with the first part.
    const opening = open(`${url}${path}`, { headers, ...(body && { body }) });
    const asked = cases.slice(0, i + 1).filter(({ body, path }) => body || path.startsWith('/ask')).length;
    await until(() => calls() === asked, `the question of ${cases[i]?.what} has arrived`);
    send({ type: 'text', text: 'x' });
    const reading = await opening;
    readings.push(reading);
    void reading.ended.then((isComplete) => {
      ends[i] = isComplete || 'cut';
    });
  }
  await until(() => app.responses.open === cases.length, 'all responses are open');
  for (let passed = 0; passed < MAX_MS; passed += 500) clock.advance(500);
  const left = cases.filter(({ ends }) => !ends).length;
  await until(() => app.responses.open <= left, 'responses have ended').catch(() => {}); // The table says which did not.
  for (let turns = 0; turns < 50; turns++) await turn();
  const rotated = await metricValue(app, 'sluice_responses_rotated_total');
  const found = [...ends];
  for (const reading of readings) reading.cut();
  await until(() => app.responses.open === 0, 'all clients have left');
  clock.advance(60_000); // The grace time is over, so that the service can be closed while the clock stands still.
  await until(() => app.streams.active === 0, 'all generations have ended');
  return { ends: found, rotated };
}

t.test('only responses whose clients reconnect end early', async (t) => {
  const service = await setUp(t);
  const { ends, rotated } = await endsOf(service, CASES);
  for (const [i, { what, ends: expected }] of CASES.entries()) t.equal(ends[i], expected, what);
  t.equal(rotated, CASES.filter(({ ends }) => ends).length);
});

const EVENT_SOURCE: Case = { what: 'an EventSource', path: '/ask/stream?question=q', ends: false };
for (const [what, streams] of [
  ['without grace time', `maxConnectionMs: ${MAX_MS}, graceMs: 0`],
  ['with a grace time that is shorter than a reconnect', `maxConnectionMs: ${MAX_MS}, graceMs: 4999`],
  ['with maxConnectionMs 0', 'maxConnectionMs: 0'],
] as const) {
  t.test(`${what} no response ends early`, async (t) => {
    const service = await setUp(t, streams);
    t.same(await endsOf(service, [EVENT_SOURCE]), { ends: [false], rotated: 0 });
  });
}

t.test('a time that is spent on reconnecting is a wrong setting', (t) => {
  const load = (ms: string) => () => loadConfig({ STREAM_MAX_CONNECTION_MS: ms });
  for (const ms of ['1', '999']) t.throws(load(ms), /STREAM_MAX_CONNECTION_MS: must be 0 or at least 1000/, ms);
  for (const ms of ['0', '1000']) t.equal(load(ms)().streams.maxConnectionMs, Number(ms));
  t.end();
});

t.test('a client whose token is about to expire keeps its response', async (t) => {
  const service = await setUp(t, undefined, WITH_TOKENS);
  const [short, long] = await Promise.all([token(-10), token(3_600)]);
  const cases: Case[] = [
    // Still accepted for the 20 s that clocks may differ by.
    { ...EVENT_SOURCE, what: 'a short token', headers: bearer(short) },
    { ...EVENT_SOURCE, what: 'a long token', headers: bearer(long), ends: true },
  ];
  t.same((await endsOf(service, cases)).ends, [false, true]);
});

/** A client that reconnects with the id of its last event until its stream has ended. */
interface Client {
  readonly path: string;
  readonly body?: object;
  readonly resumePath?: string;
  readonly textOf: (reading: Reading) => string;
}

const aguiText = ({ events }: Reading) => events.map(({ json }) => json.delta ?? '').join('');

/** Follows a stream over all its connections. Returns the text and the ids that have arrived. */
async function follow(url: string, { path, body, resumePath = path, textOf }: Client) {
  let text = '';
  let lastId = '';
  const ids: string[] = [];
  let connections = 0;
  for (; !lastId.endsWith('.end'); connections += 1) {
    const resuming = lastId !== '';
    const headers: Record<string, string> = resuming ? { 'last-event-id': lastId } : {};
    const reading = await open(`${url}${resuming ? resumePath : path}`, { headers, ...(body && { body }) });
    await reading.ended;
    text += textOf(reading);
    const received = reading.events.map(({ id }) => id).filter((id) => id !== '');
    ids.push(...new Set(received));
    lastId = received.at(-1) ?? lastId;
  }
  return { text, ids, connections };
}

t.test('clients that were sent away get every token once, and nothing is asked twice', async (t) => {
  for (const seed of [1, 2, 3]) {
    const random = randomNumbers(seed);
    const { app, url, clock, calls, send } = await setUp(t);
    const clients: Client[] = [
      { path: '/ask/stream?question=a', textOf: deltaText },
      { path: '/ask/stream?question=b&key=0123456789abcdef', textOf: deltaText },
      { path: '/ask/stream', body: { question: 'c', resumable: true }, textOf: deltaText },
      { path: '/agui', body: run(`s${seed}`, { resumable: true }), textOf: aguiText },
    ];
    const following = clients.map((client) => follow(url, client));
    await until(() => calls() === clients.length, 'all questions are asked');
    let sent = '';
    for (let step = 0; step < 60; step++) {
      for (let parts = random(3); parts > 0; parts--) {
        const content = `${sent.length}é${'y'.repeat(random(30))} `;
        sent += content;
        send({ type: 'text', text: content });
      }
      if (random(2) === 0) await turn();
      clock.advance(random(3_000));
      await until(() => app.responses.open === clients.length, 'all clients have come back');
    }
    send({ type: 'finish', reason: 'stop' } as StreamPart);
    for (const { text, ids, connections } of await Promise.all(following)) {
      t.equal(text, sent, `seed ${seed}`);
      t.equal(new Set(ids).size, ids.length, 'no event came twice');
      t.ok(connections > 1, `${connections} connections`);
    }
    t.equal(calls(), clients.length, 'one call for each question');
  }
});

t.test('a client that is sent away continues on another replica', { skip: noRedis }, async (t) => {
  const env = { STREAM_MAX_CONNECTION_MS: '1000' };
  const { a, b, upstream } = await startReplicas(t, ({ response }) => void sse(response).write(text('0 ')), env);
  const first = await open(`${a.url}/ask/stream?question=q`);
  await first.until('delta');
  const plain = await open(`${a.url}${JSON.parse(first.events[0]?.data ?? '{}').url}`, { headers: { accept: '*/*' } });
  t.equal(await first.ended, true, 'the response ends in order');
  const { response } = await upstream.call(1);
  let all = deltaText(first);
  let id = first.events.at(-1)?.id ?? '';
  for (let i = 1; i <= 2; i++) {
    const reading = await open(`${(i % 2 ? b : a).url}/ask/stream?question=q`, { headers: { 'last-event-id': id } });
    response.write(text(`${i} `));
    t.equal(await reading.ended, true);
    t.ok(reading.retry, 'the reconnect delay');
    all += deltaText(reading);
    id = reading.events.at(-1)?.id ?? id;
  }
  const last = await open(`${b.url}/ask/stream?question=q`, { headers: { 'last-event-id': id } });
  response.end(chunk({ content: '3' }, 'stop') + DONE);
  await last.until('end');
  t.equal(all + deltaText(last), '0 1 2 3');
  await plain.ended;
  t.equal(deltaText(plain), '0 1 2 3', 'a reader that does not reconnect has one response');
  t.equal(upstream.calls.length, 1);
});
