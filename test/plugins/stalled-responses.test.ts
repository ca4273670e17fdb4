import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { bellaAt, serve, until, writeConfig } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { completeAnswer, DONE, STOP, sse, startUpstream, text } from '../upstream.ts';

/** Responses that are no event streams have the stall timer of readers. */

const STALL_MS = 200;

const QUESTION = JSON.stringify({ model: 'bella/gpt-4o', messages: [{ role: 'user', content: 'q' }] });

/** Requests, and how many of them on one connection have responses that are larger than what the system buffers. */
const LARGE: Record<string, [request: string, count: number]> = {
  'a static file': ['GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n', 10],
  'a JSON document': ['GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n', 150],
  'an answer of /v1': [
    `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${QUESTION.length}\r\n\r\n${QUESTION}`,
    3,
  ],
};

for (const [what, [request, count]] of Object.entries(LARGE)) {
  t.test(`${what} that nobody reads is cut after stallMs`, async (t) => {
    const upstream = await startUpstream(t, async (call) => {
      await sleep(2 * STALL_MS); // The timer fires while the answer is awaited, and counts again from its first byte.
      await completeAnswer('x'.repeat(6_000_000))(call);
    });
    const CONFIG_FILE = writeConfig(t, `streams: { stallMs: ${STALL_MS} }`);
    const { app, url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE }) });
    const sockets = [1, 2, 3].map(() => connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {}));
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
    });
    for (const socket of sockets) socket.write(request.repeat(count));
    await until(async () => (await metricValue(app, 'sluice_connections')) === sockets.length, 'all are connected');
    await until(async () => (await metricValue(app, 'sluice_connections')) === 0, 'all are closed');
    t.equal(await metricValue(app, 'sluice_responses_stalled_total'), sockets.length);
  });
}

t.test('a client that waits for its answer, or reads slowly, is not cut', async (t) => {
  const upstream = await startUpstream(t, async ({ response }) => {
    await sleep(4 * STALL_MS);
    sse(response).end(text('x'.repeat(6_000_000)) + STOP + DONE);
  });
  const CONFIG_FILE = writeConfig(t, `streams: { stallMs: ${STALL_MS} }`);
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE }) });
  const messages = [{ role: 'user', content: 'q' }];
  const response = await postJson(`${url}/v1/chat/completions`, { model: 'bella/gpt-4o', messages });
  let length = 0;
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length % 7 === 0) await sleep(STALL_MS / 20);
  }
  t.ok(length > 6_000_000, `${length} bytes`);
  t.equal(await metricValue(app, 'sluice_responses_stalled_total'), 0);
});

t.test('a connection without a request is not closed after stallMs, but after its own time', async (t) => {
  const CONFIG_FILE = writeConfig(t, `streams: { stallMs: ${STALL_MS} }`);
  const { app, url } = await serve(t, { env: { CONFIG_FILE } });
  const openConnection = (bytes = '') => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
    t.teardown(() => socket.destroy());
    socket.write(bytes);
    return socket;
  };
  const probe = 'GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n';
  const count = async () => metricValue(app, 'sluice_connections');
  openConnection();
  const idle = openConnection(probe).resume();
  await once(idle, 'data');
  const [file = '', times] = LARGE['a static file'] ?? [];
  openConnection(file.repeat(times ?? 1));
  await until(async () => (await count()) === 3, 'all are connected');
  await until(async () => (await metricValue(app, 'sluice_responses_stalled_total')) === 1, 'the last one is cut');
  await until(async () => (await count()) === 2, 'the others are open');

  app.server.keepAliveTimeout = STALL_MS / 2;
  idle.write(probe);
  await until(async () => (await count()) === 1, 'the idle one is closed after its time');
});
