import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { longTextPieces } from '../../plugins/sse/long-text.ts';
import { heapBytes } from '../heap.ts';
import { bellaAt, serve, until } from '../helper.ts';
import { completeAnswer, startUpstream } from '../upstream.ts';

/** The end of a long answer, for readers that do not read. */

const READERS = 60;
/** Bytes that one waiting reader may hold: its high-water mark, a piece, and its objects. */
const BYTES_PER_READER = 150_000;

/** Returns the data of the last event of a body. */
function dataOfLast(body: string): { answer?: string } {
  return JSON.parse([...body.matchAll(/^data: (.*)$/gm)].at(-1)?.[1] ?? '');
}

/** Opens a raw connection that resumes at a position, and reads nothing. */
async function resume(t: Test, url: string, id: string, position: number): Promise<Socket> {
  const { port, host } = new URL(url);
  const socket = connect(Number(port), '127.0.0.1');
  t.teardown(() => socket.destroy());
  await once(socket, 'connect');
  socket.pause();
  socket.write(`GET /streams/${id} HTTP/1.1\r\nHost: ${host}\r\nLast-Event-ID: ${id}.${position}\r\n`);
  socket.write('Connection: close\r\n\r\n');
  return socket;
}

/** Returns the body of a chunked response. */
function unchunk(response: Buffer): string {
  let at = response.indexOf('\r\n\r\n') + 4;
  const chunks: Buffer[] = [];
  for (;;) {
    const lineEnd = response.indexOf('\r\n', at);
    const size = Number.parseInt(response.toString('latin1', at, lineEnd), 16);
    if (size === 0) return Buffer.concat(chunks).toString();
    chunks.push(response.subarray(lineEnd + 2, lineEnd + 2 + size));
    at = lineEnd + 4 + size;
  }
}

t.test('readers that do not read hold no copy of a long answer, and get it exactly later', async (t) => {
  const part = `${'"\\\n\t\u0001ä你😀 \ud83d'.repeat(20)}${'x'.repeat(20_000)}`;
  const parts = Array.from({ length: 400 }, () => part);
  const upstream = await startUpstream(t, completeAnswer(...parts));
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_MAX_CHARS: '16000000' }) });
  const first = await (await fetch(`${url}/ask/stream?question=q`)).text();
  const [, id = '', position] = [...first.matchAll(/^id: ([\w-]+)\.(\d+)$/gm)].at(-1) ?? [];
  // The upstream is read as UTF-8; half a pair becomes U+FFFD or stays, as the provider's JSON had it.
  t.equal(dataOfLast(first).answer, parts.join(''), 'the answer is whole');

  const before = heapBytes();
  const sockets = await Promise.all(Array.from({ length: READERS }, () => resume(t, url, id, Number(position))));
  await until(() => app.responses.open === READERS, 'all readers are connected');
  await new Promise((resolve) => setImmediate(resolve));
  const held = (heapBytes() - before) / READERS;
  t.comment(`${Math.round(held)} bytes for each reader`);
  t.ok(held < BYTES_PER_READER, `a reader holds ${Math.round(held)} bytes`);

  const slow = sockets[0] as Socket;
  const chunks: Buffer[] = [];
  slow.on('data', (chunk) => {
    chunks.push(chunk as Buffer);
  });
  slow.resume();
  await once(slow, 'close');
  const body = unchunk(Buffer.concat(chunks));
  t.ok(body.endsWith(first.slice(first.lastIndexOf('\ndata: '))), 'a slow reader gets the same bytes');
  for (const socket of sockets) socket.destroy();
  await until(() => app.responses.open === 0, 'all readers have left');
});

t.test('a heartbeat and a disconnect never interrupt a long event', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'.repeat(4_000_000), 'y'.repeat(4_000_000)));
  const env = { STREAM_MAX_CHARS: '16000000', STREAM_HEARTBEAT_MS: '20' };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const first = await (await fetch(`${url}/ask/stream?question=q`)).text();
  const [, id = '', position] = [...first.matchAll(/^id: ([\w-]+)\.(\d+)$/gm)].at(-1) ?? [];
  const socket = await resume(t, url, id, Number(position));
  await until(() => app.responses.open === 1, 'the reader is connected');
  app.responses.disconnectResumable();
  const chunks: Buffer[] = [];
  for await (const chunk of socket) {
    chunks.push(chunk as Buffer);
    if (chunks.length % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const body = unchunk(Buffer.concat(chunks));
  t.match(dataOfLast(body), { type: 'end', finishReason: 'stop' });
});

t.test('the pieces of a text are its JSON, wherever it is cut', async (t) => {
  const units = ['"', '\\', '\n', '\u2028', '\u2029', '\u0085', 'ä', '😀', '\ud83d', '\ude00', 'x', ''];
  for (let seed = 1; seed <= 300; seed++) {
    let state = seed * 7919;
    const next = () => (state = (state * 48_271) % 2_147_483_647);
    const text = Array.from({ length: next() % 40 }, () => units[next() % units.length]).join('');
    for (const size of [1, 2, 3, 7, 100]) {
      const pieces = [...longTextPieces({ id: 'i.end', before: '{"a":', text, after: ',"b":1}' }, size)];
      const json = JSON.stringify(text)
        .replaceAll('\u2028', '\\u2028')
        .replaceAll('\u2029', '\\u2029')
        .replaceAll('\u0085', '\\u0085');
      t.equal(pieces.join(''), `data: {"a":${json},"b":1}\nid: i.end\n\n`);
      t.ok(pieces.every((piece) => piece.length <= Math.max(40, 6 * (size + 1))));
    }
  }
});
