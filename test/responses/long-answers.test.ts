import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { heapBytes } from '../heap.ts';
import { bellaAt, serve, until, writeConfig } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { open } from '../sse-client.ts';
import { completeAnswer, startUpstream } from '../upstream.ts';
import { checkGrammar } from './grammar.ts';

/** Readers of a long answer hold its text, within the bound of their memory. */

const PIECES = 100;
const PIECE = '0123456789abcdef'.repeat(1_000);
const LENGTH = PIECES * PIECE.length;
const READERS = 30;

async function serviceOf(t: Test, yaml: string) {
  const upstream = await startUpstream(t, completeAnswer(...Array<string>(PIECES).fill(PIECE)));
  const env = bellaAt(upstream.url, { CONFIG_FILE: writeConfig(t, yaml), MAX_GENERATIONS: '10' });
  const { app, url } = await serve(t, { env });
  const response = await postJson(`${url}/v1/responses`, { input: 'q' });
  const { id } = (await response.json()) as { id: string };
  return { app, url, path: `/v1/responses/${id}?stream=true` };
}

/** Opens a connection that reads nothing. */
async function openSilently(t: Test, url: string, path: string): Promise<Socket> {
  const { port } = new URL(url);
  const socket = connect(Number(port), '127.0.0.1');
  t.teardown(() => socket.destroy());
  await once(socket, 'connect');
  socket.pause();
  socket.write(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`);
  return socket;
}

t.test('a long answer arrives whole, one event that repeats it after another', async (t) => {
  const { url, path } = await serviceOf(t, '');
  const reading = await open(url + path);
  t.equal(await reading.ended, true);
  const events = reading.named.map(({ json }) => json);
  checkGrammar(events);
  t.equal(events.at(-1).response.output[0].content[0].text.length, LENGTH);
});

t.test('readers that read nothing hold no more than they may, and the others are cut', async (t) => {
  const { url, path, app } = await serviceOf(t, 'limits: { promptBytes: 16777216 }');
  const before = heapBytes();
  const sockets: Socket[] = [];
  for (let i = 0; i < READERS; i++) sockets.push(await openSilently(t, url, `${path}&starting_after=104`));
  await until(async () => (await metricValue(app, 'sluice_refusals_total', { reason: 'prompts' })) > 0, 'some are cut');
  t.ok(app.responses.open < READERS, `${app.responses.open} are open`);
  const held = heapBytes() - before;
  t.comment(`${held} bytes for ${app.responses.open} readers`);
  t.ok(held < 24_000_000, `${held} bytes`);
  for (const socket of sockets) socket.destroy();
  await until(() => app.responses.open === 0, 'all readers have left');
  t.equal(await (await open(url + path)).ended, true, 'their memory is released');
});
