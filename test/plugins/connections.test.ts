import { once } from 'node:events';
import { Agent, createServer, request } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';
import t, { type Test } from 'tap';
import { planDescriptors } from '../../plugins/descriptors.ts';
import { ConnectionTable } from '../../plugins/http/connection-table.ts';
import { type BuildOptions, bellaAt, serve, until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { open } from '../sse-client.ts';
import { startUpstream, unfinishedAnswer } from '../upstream.ts';

/** Bounds of connections and requests, and responses that nobody reads. */

const OPEN_FILES = 128;
const { maxConnections, maxRequests } = planDescriptors(OPEN_FILES, { maxGenerations: 10_000, listenSockets: 32 });

const LIVEZ = 'GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n';
const PARTIAL =
  'POST /ask/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{';

/** Opens a connection and sends `bytes`; waits for a response to a complete request. */
async function connection(t: Test, app: FastifyInstance, bytes = ''): Promise<Socket> {
  const { port } = app.addresses()[0] as { port: number };
  const before = await metricValue(app, 'sluice_connections');
  const socket = connect(port, '127.0.0.1').on('error', () => {});
  t.teardown(() => socket.destroy());
  await once(socket, 'connect');
  socket.write(bytes);
  if (bytes === LIVEZ) await once(socket.resume(), 'data');
  const count = async () => metricValue(app, 'sluice_connections');
  // When all places are taken, the number stays the same.
  if (before < maxConnections) await until(async () => (await count()) > before, 'the connection is accepted');
  return socket;
}

const closedByReason = (app: FastifyInstance, state: string) =>
  metricValue(app, 'sluice_connections_closed_total', { state });

/** Starts a service with one running stream, and returns the URL of the stream. */
async function serveStream(t: Test, options: BuildOptions = {}) {
  const upstream = await startUpstream(t, unfinishedAnswer('word'));
  const env = bellaAt(upstream.url, { CORS_ORIGINS: 'https://app.example', ...options.env });
  const { app, url } = await serve(t, { openFileLimit: OPEN_FILES, ...options, env });
  const reading = await open(`${url}/ask/stream?question=q`);
  const { id } = await reading.until('delta');
  return { app, url, reading, id, path: `/streams/${id.split('.')[0]}` };
}

t.test('a new connection closes the one that has been without a request for longest', async (t) => {
  const { app, reading } = await serveStream(t);
  const first = await connection(t, app);
  const second = await connection(t, app, LIVEZ);
  const third = await connection(t, app);
  for (let i = 4; i < maxConnections; i++) await connection(t, app);
  t.equal(await metricValue(app, 'sluice_connections'), maxConnections);
  // The first connection was used last.
  first.write(LIVEZ);
  await once(first.resume(), 'data');

  await connection(t, app, LIVEZ);
  await until(() => second.destroyed, 'the oldest idle connection is closed');
  t.notOk(third.destroyed, 'and no other');
  await connection(t, app, LIVEZ);
  await until(() => third.destroyed, 'then the oldest silent one');
  t.notOk(first.destroyed);
  t.equal(await closedByReason(app, 'idle'), 2);
  t.equal(await metricValue(app, 'sluice_connections'), maxConnections);
  t.notOk(reading.response.destroyed, 'the running stream stays open');
  reading.cut();
});

t.test('an incomplete request is closed after idle connections, and a running response never', async (t) => {
  const closed: string[] = [];
  const onClosed = (state: string) => void closed.push(state);
  const table = new ConnectionTable({ maxConnections: 3, maxRequests: 10, onClosed, onCount: () => {} });
  let requests = 0;
  const server = createServer({ requestTimeout: 0 });
  server.on('connection', (socket: Socket) => table.open(socket));
  server.on('request', (request, response) => {
    requests += 1;
    table.begin(request, response);
    request.resume();
    if (request.url === '/slow') response.write('begun');
    else request.on('end', () => response.end('ok'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const send = async (bytes: string) => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1').on('error', () => {});
    socket.write(bytes);
    await once(server, 'connection');
    return socket.resume();
  };
  const SLOW = 'GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n';
  const isClosed = (socket: Socket) => until(() => socket.destroyed, 'the connection is closed');

  const uploading = await send(PARTIAL);
  await until(() => requests === 1, 'the head of the request is read');
  const silent = await send('');
  const first = await send(SLOW);
  await until(() => first.bytesRead > 0, 'a response has begun');
  const second = await send(SLOW);
  await isClosed(silent);
  t.notOk(uploading.destroyed, 'the silent connection goes first, although it is younger');
  const third = await send(SLOW);
  await isClosed(uploading);
  await until(() => third.bytesRead > 0, 'all three responses have begun');
  await isClosed(await send(SLOW));
  t.same(closed, ['idle', 'receiving', 'new']);
  t.notOk(
    [first, second, third].some(({ destroyed }) => destroyed),
    'the running responses go on',
  );

  first.destroy();
  await until(() => table.size === 2, 'one place is free');
  const last = await send(SLOW);
  await until(() => last.bytesRead > 0, 'it is served');
  t.same(closed, ['idle', 'receiving', 'new'], 'nothing was closed for it');
});

t.test('requests that arrive slowly do not keep out others', async (t) => {
  const { app, url, reading } = await serveStream(t);
  const uploads: Socket[] = [];
  while (uploads.length < maxRequests) uploads.push(await connection(t, app, PARTIAL));
  await until(() => uploads.some(({ destroyed }) => destroyed), 'the last one makes the first one leave');
  t.ok(uploads[0]?.destroyed, 'the oldest');
  const other = await open(`${url}/ask/stream?question=other`);
  await other.until('delta');
  t.ok((await closedByReason(app, 'receiving')) >= 2);
  other.cut();
  reading.cut();
});

t.test('with every request taken, new ones are refused in the way that their client understands', async (t) => {
  const { app, url, reading, id, path } = await serveStream(t);
  const readings = [reading];
  while (readings.length < maxRequests) readings.push(await open(url + path));

  for (const probe of ['/livez', '/readyz', '/metrics']) t.equal((await fetch(url + probe)).status, 200, probe);

  const cors = { origin: 'https://app.example' };
  const plain = await postJson(`${url}/ask/stream`, { question: 'q' }, cors);
  t.equal(plain.status, 503);
  t.match(await plain.json(), { error: { code: 'overloaded', message: /retry later/, requestId: String } });
  t.equal(plain.headers.get('retry-after'), '1');
  t.equal(plain.headers.get('connection'), 'close');
  t.equal(plain.headers.get('access-control-allow-origin'), cors.origin);
  const openai = await postJson(`${url}/v1/chat/completions`, { model: 'm', messages: [] });
  t.equal(openai.status, 503);
  t.match(await openai.json(), { error: { code: 'overloaded', type: 'server_error', param: null } });
  t.equal(openai.headers.get('x-should-retry'), null);
  for (const page of ['/', '/docs', '/openapi.json', '/unknown']) t.equal((await fetch(url + page)).status, 503, page);

  const question = await open(`${url}/ask/stream?question=new`, { headers: cors });
  t.equal(question.response.statusCode, 200, 'an EventSource gives up for good on any other status');
  t.ok(await question.ended);
  t.match(question.events.at(-1)?.json, { type: 'error', code: 'overloaded', retryable: true, retryAfter: 1 });
  t.match(question.events.at(-1)?.id, /\.end$/, 'its reconnect is answered by 204');
  t.equal(question.response.headers['access-control-allow-origin'], cors.origin);
  for (const resume of [path, `/ask/stream?question=q&lastEventId=${id}`]) {
    const resumed = await open(url + resume);
    t.equal(resumed.response.statusCode, 200);
    t.ok(await resumed.ended);
    t.same(
      resumed.events.filter(({ data }) => data !== '{}'),
      [],
      `${resume} gets no event`,
    );
    t.ok(Number(resumed.retry) > 0, 'and comes back');
  }
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'descriptors' }), 9);
  t.ok(
    readings.every(({ response }) => !response.destroyed),
    'all responses are open',
  );

  readings.pop()?.cut();
  await until(async () => (await fetch(`${url}/openapi.json`)).status === 200, 'one place is free again');
  for (const { cut } of readings) cut();
});

t.test('a pipelined request whose turn never came is released with its connection', async (t) => {
  const { app, reading, path } = await serveStream(t);
  for (let i = 0; i < maxRequests; i++) {
    const socket = await connection(t, app, `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`.repeat(2));
    await once(socket, 'data');
    socket.destroy();
    await until(async () => (await metricValue(app, 'sluice_connections')) === 1, 'the connection is closed');
  }
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'descriptors' }), 0, 'there is always room');
  reading.cut();
});

t.test('only some responses may read files, also on pipelined connections that close', async (t) => {
  const openFileLimit = 192;
  const { app, url, reading } = await serveStream(t, { openFileLimit });
  const { port } = app.addresses()[0] as { port: number };
  const { maxFileResponses } = planDescriptors(openFileLimit, { maxGenerations: 1, listenSockets: 32 });
  const file = 'GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n';
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.teardown(() => agent.destroy());
  const status = async (path: string) => {
    const [response] = await once(request(`${url}${path}`, { agent }).end(), 'response');
    response.resume();
    await once(response, 'close');
    return response.statusCode as number;
  };
  t.equal(await status('/style.css'), 200);
  // Nothing is read, so that the responses do not end.
  const stalled = Array.from({ length: maxFileResponses }, () => connect(port, '127.0.0.1').on('error', () => {}));
  t.teardown(() => {
    for (const socket of stalled) socket.destroy();
  });
  for (const socket of stalled) socket.write(file.repeat(10));
  const isRefused = async () => {
    // The system buffers some of the responses as a whole, and those end.
    for (const socket of stalled) socket.write(file);
    return (await status('/style.css')) === 503;
  };
  await until(isRefused, 'files are refused');
  t.equal(await status('/readyz'), 200);
  t.equal(await status('/v1/models'), 200, 'other requests are answered');
  for (const socket of stalled) socket.destroy();
  await until(async () => (await status('/style.css')) === 200, 'files are sent again');
  reading.cut();
});
