import { once } from 'node:events';
import { createServer, get, type IncomingMessage, request } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { json, text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { DefaultChatTransport, type UIMessageChunk } from 'ai';
import OpenAI from 'openai';
import t, { type Test } from 'tap';
import { readAsEventSource } from '../cluster.ts';
import { bellaAt, until, writeConfig } from '../helper.ts';
import { runServer, type ServerProcess } from '../process.ts';
import { freePort, noRedis, startRedis } from '../redis.ts';
import { open, readAll } from '../sse-client.ts';
import { DONE, type Script, STOP, sse, startUpstream, text as textDelta, type Upstream } from '../upstream.ts';
import { GATEWAYS, type Gateway, type GatewayKind, startGateway } from './launch.ts';

/**
 * Every gateway of `deploy/` in front of two replicas, with all kinds of clients. `QUIET_MS=70000 IDLE_S=60` runs the
 * silence that is longer than the usual idle time-out in full.
 */

/** Idle time-out of the gateways in seconds, and a silence of the model that is longer. */
const IDLE_S = Number(process.env.IDLE_S ?? 4);
const QUIET_MS = Number(process.env.QUIET_MS ?? 4_500);
const HEARTBEAT_MS = Math.min(15_000, IDLE_S * 125);
const WORDS = ['one ', 'two ', 'three ', 'four ', 'five'];
const ANSWER = WORDS.join('');

/** Answers `quiet` questions with a silence behind the first word, and `wait` questions with the rest when it is released. */
function quietAnswer(released: () => Promise<void>): Script {
  return async ({ body, response }) => {
    sse(response).write(textDelta(WORDS[0] ?? ''));
    if (/wait/.test(body)) await released();
    else if (/quiet/.test(body)) await sleep(QUIET_MS);
    for (const word of WORDS.slice(1)) {
      if (response.destroyed) return;
      response.write(textDelta(word));
      await sleep(10);
    }
    response.end(STOP + DONE);
  };
}

async function askWithSdk(url: string, question: string): Promise<string> {
  const sdk = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any' });
  const messages = [{ role: 'user' as const, content: question }];
  let answer = '';
  for await (const { choices } of await sdk.chat.completions.create({ model: 'bella/gpt-4o', messages, stream: true }))
    answer += choices[0]?.delta.content ?? '';
  return answer;
}

/** Asks as `useChat` does: with its transport. */
async function askAsChat(url: string, question: string): Promise<string> {
  const transport = new DefaultChatTransport({ api: `${url}/ui/chat` });
  const stream = await transport.sendMessages({
    ...{ trigger: 'submit-message', chatId: question, messageId: undefined, abortSignal: undefined },
    messages: [{ id: 'u', role: 'user', parts: [{ type: 'text', text: question }] }],
  });
  let answer = '';
  for await (const part of stream as unknown as AsyncIterable<UIMessageChunk>)
    if (part.type === 'text-delta') answer += part.delta;
  return answer;
}

async function askAsEventSource(url: string, question: string): Promise<string> {
  const page = readAsEventSource(`${url}/ask/stream?question=${question}`);
  await page.closed;
  if (page.last?.answer !== page.text || new Set(page.ids).size < page.ids.length) return JSON.stringify(page.last);
  return page.text;
}

/** Opens requests over one HTTP/2 connection, as browsers do, and returns the bodies. */
async function askOverHttp2(tlsUrl: string, questions: readonly string[]): Promise<string[]> {
  const session = connectHttp2(tlsUrl, { rejectUnauthorized: false });
  try {
    return await Promise.all(
      questions.map(async (question) => {
        const stream = session.request({ ':path': `/ask/stream?question=${question}`, accept: 'text/event-stream' });
        stream.setEncoding('utf8').end();
        let body = '';
        stream.on('data', (part) => (body += part));
        await once(stream, 'end');
        const deltas = [...body.matchAll(/^data: (\{"type":"delta".*\})$/gm)].map(([, json = '']) => JSON.parse(json));
        return deltas.map(({ content }) => content).join('');
      }),
    );
  } finally {
    session.close();
  }
}

/** Returns the status of a GET whose path is sent as it is; `fetch` would normalize it. */
async function statusOf(url: string, path: string): Promise<number | undefined> {
  const { hostname, port } = new URL(url);
  const [response] = (await once(get({ hostname, port, path }), 'response')) as [IncomingMessage];
  response.resume();
  return response.statusCode;
}

/** Sends a GET as an EventSource does over HTTP/2 and returns the status and the body. */
async function getOverHttp2(tlsUrl: string, path: string): Promise<[status: number | undefined, body: string]> {
  const session = connectHttp2(tlsUrl, { rejectUnauthorized: false });
  try {
    const stream = session.request({ ':path': path, accept: 'text/event-stream' });
    stream.end();
    const [headers] = await once(stream, 'response');
    return [headers[':status'], await text(stream)];
  } finally {
    session.close();
  }
}

/** Asserts that paths for operators are not passed on, in any spelling, and others are. */
async function testPaths(t: Test, { url, tlsUrl }: Gateway, countRequests: () => Promise<number>): Promise<void> {
  const closed = ['/metrics', '/metrics/', '/%6detrics', '//metrics', '/x/../metrics', '/metrics?x', '/docs', '/docs/'];
  closed.push('/docs/static/index.html', '/openapi.json', '/readyz?verbose', '/readyz/?verbose', '/readyz?verbose=1');
  // Only a name that a client has chosen can be that of a path for operators.
  closed.push('/ui/chat/docs', '/ui/chat/docs/stream/x', '/ui/chat/a/docs/stream', '/v1/docs/models', '/streams/docs');
  closed.push('/docs/ui/chat/x/stream', '/docs/%0a/ui/chat/x/stream', '/docs/a/v1/models/x', '/metrics/v1/models/x');
  closed.push('/v1/models/../metrics', '/v1/models/%2e%2e/docs', '/ui/chat/%2e%2e/docs/stream');
  const before = await countRequests();
  for (const path of ['', '/sluice', '/a/b'].flatMap((prefix) => closed.map((path) => prefix + path)))
    t.equal(await statusOf(url, path), 404, path);
  if (tlsUrl !== undefined)
    for (const path of ['/metrics', '/%6detrics', '/docs/', '/openapi.json', '/readyz?verbose'])
      t.equal((await getOverHttp2(tlsUrl, path))[0], 404, `${path} over HTTP/2`);
  t.equal(await countRequests(), before, 'no closed path reaches a replica');
  if (tlsUrl !== undefined)
    t.match(
      await getOverHttp2(tlsUrl, '/v1/models/docs%2Fa'),
      [404, /"error"/],
      'a model reaches a replica over HTTP/2',
    );
  const open = [
    '/ui/chat/docs/stream',
    '/ui/chat/openapi.json/stream/',
    '/v1/models/docs',
    '/v1/models/a/metrics',
    '/v1/models/a%2Fb',
  ];
  for (const path of ['', '/sluice', '/a/b'].flatMap((prefix) => open.map((path) => prefix + path))) {
    const response = await fetch(`${url}${path}`);
    const isOfReplica = response.status === 204 || /json/.test(response.headers.get('content-type') ?? '');
    t.ok(isOfReplica, `${path} reaches a replica`);
    await response.body?.cancel();
  }
  for (const path of [
    '/metrics#x',
    '/sluice/metrics#',
    '/docs/#/',
    '/openapi.json#x',
    '/readyz#verbose',
    '/sluice/readyz#x?verbose',
  ])
    t.match(String(await statusOf(url, path)), /^40[04]$/, path);
  for (const path of ['/', '/livez', '/readyz', '/v1/models'])
    t.equal((await fetch(`${url}${path}`)).status, 200, path);
}

/** Asserts what clients get if no replica can be reached. */
async function testUnavailable(t: Test, { url, tlsUrl }: Gateway): Promise<void> {
  const ID = `${'aB3_-'.repeat(5)}.12`;
  const END = ID.replace('12', 'end');
  const resume = (id: string) => `id: ${id}\nid: ${id}\nevent: ready\nretry: N\ndata: {}\n\n`;
  const first = 'event: ready\nid: \nevent: ready\nretry: N\ndata: {}\n\n';
  const cases: [path: string, lastEventId: string, expected: string][] = [
    ['/ask/stream?question=q', '', first],
    ['/streams/x', '', first],
    ['/ask/stream?question=q', ID, resume(ID)],
    ['/ask/stream/?question=q', END, resume(END)],
    [`/streams/x?lastEventId=${ID}`, '', resume(ID)],
    [`/ask/stream?question=q&lastEventId=${END}`, ID, resume(ID)],
    [`/ask/stream?question=q&lastEventId=${ID}`, 'not an id', first],
    ['/ask/stream?question=q&lastEventId=', '', first],
    ['/sluice/ask/stream?question=q', '', first],
    [`/sluice/streams/x?lastEventId=${ID}`, '', resume(ID)],
    ['/a/b/streams/x/', ID, resume(ID)],
  ];
  const forged = ['a.1', `${ID}x`, `${ID} data: x`, `x ${ID}`, '<script>', `${ID}\u0085`, 'a'.repeat(65).concat('.1')];
  for (const id of forged) {
    cases.push(['/ask/stream?question=q', id, first]);
    for (const text of [encodeURIComponent(id), `${ID}%0adata:%20x`, `${ID}%0a`, `${ID}\\ndata`])
      cases.push([`/ask/stream?question=q&lastEventId=${text}`, '', first]);
  }
  const responses = await Promise.all(
    cases.map(async ([path, lastEventId]) => {
      const headers = {
        accept: 'text/event-stream',
        origin: 'https://p',
        ...(lastEventId && { 'last-event-id': lastEventId }),
      };
      const response = await fetch(`${url}${path}`, { headers });
      return { response, text: await response.text() };
    }),
  );
  for (const [i, { response, text }] of responses.entries()) {
    const [path, lastEventId, expected] = cases[i] as (typeof cases)[number];
    t.equal(response.status, 200, path);
    t.match(response.headers.get('content-type'), 'text/event-stream');
    t.equal(response.headers.get('access-control-allow-origin'), 'https://p');
    const body = text.replace(/retry: (\d{3,4})\n/, (_, ms) => (ms >= 500 && ms <= 1_500 ? 'retry: N\n' : ms));
    t.equal(body, expected, `${path} with ${lastEventId}`);
  }
  if (tlsUrl !== undefined) {
    const [status, body] = await getOverHttp2(tlsUrl, `/streams/x?lastEventId=${ID}`);
    t.match([status, body.replace(/retry: \d+/, 'retry: N')], [200, resume(ID)], 'over HTTP/2');
  }
  for (const [path, accept] of [
    ['/ask/stream?question=q', '*/*'],
    ['/v1/models?x=/ask/stream', 'text/event-stream'],
    ['/ui/chat/x/stream', 'text/event-stream'],
    ['/v1/models', 'x/ask/stream text/event-stream'],
    ['/sluice/v1/models?x=/sluice/ask/stream', 'text/event-stream'],
    ['/sluice/streams/x/y', 'text/event-stream'],
  ] as const) {
    const response = await fetch(`${url}${path}`, { headers: { accept } });
    t.match([response.status, response.headers.get('retry-after')], [503, '2'], `${path} with ${accept}`);
    t.match(await response.json(), { error: { code: 'overloaded' } });
  }
}

interface Arrival {
  readonly replica: number;
  readonly id: string;
}

/**
 * Asserts what a gateway repeats. The replicas cut connections before the first byte: for a question with `cut` the one
 * that gets it first, for one with `dead` both.
 */
async function testRetries(t: Test, kind: GatewayKind, { url }: Gateway, ports: readonly number[]): Promise<void> {
  const arrivals = new Map<string, Arrival[]>();
  const answering = new Set<number>();
  const servers = ports.map((port, replica) =>
    createServer(async (incoming, response) => {
      if (incoming.url === '/livez') answering.add(replica);
      let body = '';
      try {
        for await (const chunk of incoming) body += chunk;
      } catch {
        return; // The gateway has aborted the request.
      }
      const [question = ''] = /(cut|dead|whole)-\w+/.exec(`${incoming.url} ${body}`) ?? [];
      const seen = arrivals.get(question) ?? [];
      arrivals.set(question, [...seen, { replica, id: String(incoming.headers['x-request-id']) }]);
      const isFirst = (seen[0]?.replica ?? replica) === replica;
      if (/dead/.test(question) || (/cut/.test(question) && isFirst)) incoming.socket.destroy();
      else response.end(body);
    }).listen(port, '127.0.0.1'),
  );
  t.teardown(() => {
    for (const server of servers) server.close().closeAllConnections();
  });
  /** Waits, because some gateways do not use a replica for a second after a failure. */
  const bothAreUsed = async () => {
    answering.clear();
    await until(async () => {
      await (await fetch(`${url}/livez`)).text();
      return answering.size === ports.length;
    }, 'the gateway uses both replicas');
  };
  const arrivalsOf = (question: string) => arrivals.get(question) ?? [];
  /** Posts over a new connection: HAProxy ends one that is reused without an answer. */
  const post = async (question: string) => {
    const headers = { 'content-type': 'application/json' };
    const outgoing = request(`${url}/ask/stream`, { method: 'POST', agent: false, headers });
    outgoing.end(JSON.stringify({ question }));
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    return { status: response.statusCode, retryAfter: response.headers['retry-after'], body: await json(response) };
  };

  // Clients reuse a connection, as browsers do.
  for (const question of ['cut-a', 'cut-b']) {
    await bothAreUsed();
    const response = await fetch(`${url}/ask/stream?question=${question}`, { headers: { 'x-request-id': 'forged' } });
    t.equal(response.status, 200, `a GET is sent to the next replica: ${await response.text()}`);
    t.equal(new Set(arrivalsOf(question).map(({ replica }) => replica)).size, 2);
    const ids = new Set(arrivalsOf(question).map(({ id }) => id));
    t.equal(ids.size, 1, 'with the same X-Request-Id');
    t.match([...ids][0], /^[\w.-]{16,64}$/, 'which is an id that a replica accepts');
  }
  await bothAreUsed();
  const headers = { connection: 'keep-alive, x-request-id' };
  const [response] = (await once(get(`${url}/ask/stream?question=cut-c`, { headers }), 'response')) as [
    IncomingMessage,
  ];
  response.resume();
  t.equal(response.statusCode, 200);
  t.equal(new Set(arrivalsOf('cut-c').map(({ id }) => id)).size, 1);
  t.match(arrivalsOf('cut-c')[0]?.id, /^[\w.-]{16,64}$/, 'a client cannot have the id removed');

  const ids = ['cut-a', 'cut-b'].map((question) => arrivalsOf(question)[0]?.id);
  t.equal(new Set(ids).size, 2, 'each request has another X-Request-Id');

  await bothAreUsed();
  const refused = await post('cut-post');
  t.match([refused.status, refused.retryAfter], [503, '2'], 'a POST that was sent is not repeated');
  t.match(refused.body, { error: { code: 'overloaded' } });
  t.equal(arrivalsOf('cut-post').length, 1);

  await bothAreUsed();
  const told = await readAll(`${url}/ask/stream?question=dead-get`);
  t.match([told.response.statusCode, told.retry], [200, Number], 'an EventSource is told to come back');
  t.equal(new Set(arrivalsOf('dead-get').map(({ replica }) => replica)).size, 2);

  await bothAreUsed();
  servers[0]?.close().closeAllConnections();
  for (const question of ['whole-a', 'whole-b', 'whole-c', 'whole-d']) {
    const { status, body } = await post(question);
    if (kind.repeatsUnsentPost === false && status === 503) {
      t.equal(arrivalsOf(question).length, 0, 'a POST that is refused has reached no replica');
      continue;
    }
    t.equal(status, 200, 'a POST that cannot connect is sent to the next replica');
    t.same(body, { question }, 'with its body');
    t.equal(arrivalsOf(question).length, 1);
  }
}

interface Site extends Gateway {
  readonly upstream: Upstream;
  readonly replicas: ServerProcess[];
  release(): void;
  restart(index: number): Promise<void>;
}

async function startSite(t: Test, kind: GatewayKind): Promise<Site> {
  let release = () => {};
  let released = Promise.resolve();
  const redis = await startRedis(t);
  const upstream = await startUpstream(
    t,
    quietAnswer(() => released),
  );
  released = new Promise((resolve) => (release = resolve));
  const CONFIG_FILE = writeConfig(t, `deadlines: { firstTokenMs: 60000, idleMs: ${QUIET_MS + 30_000} }`);
  const ports = [await freePort(), await freePort()] as const;
  const start = (port: number) =>
    runServer(
      t,
      bellaAt(upstream.url, {
        ...{ PORT: String(port), REDIS_URL: redis.url, TRUST_PROXY: '1', CONFIG_FILE },
        ...{ STREAM_HEARTBEAT_MS: String(HEARTBEAT_MS), DRAIN_MS: '200', DRAIN_HANDOVER_MS: '20000' },
      }),
    );
  const replicas = await Promise.all(ports.map(start));
  const gateway = await startGateway(t, kind, { replicas: ports, idleS: IDLE_S });
  return {
    ...{ ...gateway, upstream, replicas, release: () => release() },
    async restart(index) {
      replicas[index] = await start(ports[index] as number);
    },
  };
}

/** Returns the number of calls for each question that has more or fewer than one. */
function wrongCalls({ upstream }: Site, questions: readonly string[]): [string, number][] {
  return questions
    .map((question): [string, number] => [
      question,
      upstream.calls.filter(({ body }) => body.includes(question)).length,
    ])
    .filter(([, count]) => count !== 1);
}

// Each has processes of its own and mostly waits for them.
t.jobs = GATEWAYS.length;

for (const kind of GATEWAYS) {
  t.test(kind.name, { buffered: true, skip: kind.missing || noRedis, timeout: 60_000 + 4 * QUIET_MS }, async (t) => {
    const ports = [await freePort(), await freePort()] as const;
    const dead = await startGateway(t, kind, { replicas: ports });
    await t.test('without a replica, an EventSource is told to come back', (t) => testUnavailable(t, dead));
    await t.test('a replica that dies before its first byte', (t) => testRetries(t, kind, dead, ports));

    const site = await startSite(t, kind);
    await until(async () => (await fetch(`${site.url}/readyz`)).status === 200, 'the gateway uses a replica');
    const countRequests = async () => {
      const texts = await Promise.all(site.replicas.map(async ({ url }) => (await fetch(`${url}/metrics`)).text()));
      const counts = texts.flatMap((text) => [...text.matchAll(/^sluice_requests_total\{(.*)\} (\d+)$/gm)]);
      return counts
        .filter(([, labels]) => !/\/(metrics|readyz)"/.test(labels ?? ''))
        .reduce((n, [, , c]) => n + Number(c), 0);
    };
    await t.test('paths for operators are closed', (t) => testPaths(t, site, countRequests));

    await t.test('a silence longer than the idle time-out cuts nobody', async (t) => {
      const [es, sdk, chat] = ['quiet-es', 'quiet-sdk', 'quiet-chat'] as const;
      const overTls = kind.tls === false ? [] : ['quiet-h2a', 'quiet-h2b'];
      const answers = await Promise.all([
        askAsEventSource(site.url, es),
        askWithSdk(site.url, sdk),
        askAsChat(site.url, chat),
        site.tlsUrl === undefined ? [] : askOverHttp2(site.tlsUrl, overTls),
      ]);
      t.same(answers, [ANSWER, ANSWER, ANSWER, overTls.map(() => ANSWER)]);
      t.same(wrongCalls(site, [es, sdk, chat, ...overTls]), [], 'each question is asked once');
    });

    await t.test('a browser has many streams on one HTTP/2 connection', { skip: kind.tls === false }, async (t) => {
      const session = connectHttp2(site.tlsUrl ?? '', { rejectUnauthorized: false });
      let running = 0;
      for (let i = 0; i < 8; i++) {
        const headers = { ':path': `/ask/stream?question=wait-many-${i}`, accept: 'text/event-stream' };
        session
          .request(headers)
          .once('data', () => (running += 1))
          .on('error', () => {})
          .end();
      }
      // Apache begins with six, and allows more when requests have ended.
      const atOnce = kind.name === 'apache' ? 6 : 8;
      await until(() => running === atOnce, `${atOnce} streams run`);
      if (atOnce === 8) {
        const [headers] = await once(session.request({ ':path': '/livez' }).end(), 'response');
        t.equal(headers[':status'], 200, 'and another request is answered');
      }
      session.destroy();
    });

    await t.test('events arrive one by one', async (t) => {
      const reading = await open(`${site.url}/ask/stream?question=wait-first`, {
        headers: { 'accept-encoding': 'gzip, br, zstd' },
      });
      await reading.until('delta');
      t.equal(reading.response.headers['content-encoding'], undefined, 'not compressed');
      reading.cut();
    });

    await t.test('the call of a client that leaves is cancelled', async (t) => {
      const reading = await open(`${site.url}/v1/chat/completions`, {
        body: { model: 'bella/gpt-4o', stream: true, messages: [{ role: 'user', content: 'wait-leaves' }] },
      });
      await until(() => reading.events.length > 0, 'the client has a chunk');
      reading.cut();
      const call = site.upstream.calls.find(({ body }) => body.includes('wait-leaves'));
      await call?.closed;
      t.equal(call?.finished, false);
    });

    await t.test('kill -9 and a restart lose nothing', async (t) => {
      const pages = [0, 1, 2, 3, 4, 5].map((i) => readAsEventSource(`${site.url}/ask/stream?question=wait-es-${i}`));
      await until(() => pages.every(({ text, resumable }) => text !== '' && resumable), 'all pages have a word');
      // Readers of this stream may be on the replica that dies; its producer is the other one.
      const [victim, survivor] = site.replicas as [ServerProcess, ServerProcess];
      const produced = await fetch(`${survivor.url}/streams`, {
        ...{ method: 'POST', headers: { 'content-type': 'application/json' } },
        body: JSON.stringify({ question: 'wait-produced' }),
      });
      const { url } = (await produced.json()) as { url: string };
      const readers = [0, 1, 2, 3].map(() => readAsEventSource(site.url + url));
      await until(() => readers.every(({ text }) => text !== ''), 'all readers have a word');
      victim.child.kill('SIGKILL');
      await victim.exit;
      // A new question goes to the replica that is left.
      const during = askAsEventSource(site.url, 'now-during');
      await site.restart(0);
      await until(async () => {
        await fetch(`${site.url}/v1/models`);
        const metrics = await (await fetch(`${site.replicas[0]?.url}/metrics`)).text();
        return /^sluice_requests_total\{.*models/m.test(metrics);
      }, 'the gateway uses the new replica');
      await until(() => readers.every(({ text }) => text !== ''), 'readers have come back');
      // Then the other one is replaced, while its answers run.
      survivor.child.kill('SIGTERM');
      await sleep(300); // The drain sends readers away.
      const drained = askWithSdk(site.url, 'now-drained');
      site.release();
      t.equal(await survivor.exit, 0, 'the replica drains');
      await Promise.all(readers.map(({ closed }) => closed));
      for (const { text, last, ids } of readers) {
        t.equal(text, ANSWER);
        t.match(last, { type: 'end', answer: ANSWER });
        t.equal(new Set(ids).size, ids.length, 'no event came twice');
      }
      t.equal(await during, ANSWER);
      t.equal(await drained, ANSWER);
      await Promise.all(pages.map(({ closed }) => closed));
      for (const { text, last } of pages) {
        // An answer that the dead replica produced is lost, and its page is told so; every other one is whole.
        if (last?.code === 'stream_lost') t.equal(text, WORDS[0]);
        else t.equal(text, ANSWER, JSON.stringify(last));
      }
      const questions = ['wait-produced', 'now-during', 'now-drained', ...pages.map((_, i) => `wait-es-${i}`)];
      t.same(wrongCalls(site, questions), [], 'nothing is asked twice');
    });

    t.notMatch(site.log() + dead.log(), /question|quiet|wait-|lastEventId|aB3_/, 'no query is logged');
    t.match(site.log(), '/ask/stream', 'paths are logged');
  });
}
