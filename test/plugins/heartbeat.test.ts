import type { Socket } from 'node:net';
import t, { type Test } from 'tap';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { serve, until } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { deltaText, open, type Reading } from '../sse-client.ts';

/** Comments that keep a silent connection open. Time stands still until the test advances it. */

const HEARTBEAT_MS = 4_000;
const TICK_MS = HEARTBEAT_MS / 4;

/** Starts a service whose provider sends a part for each call of `send`. */
async function setUp(t: Test) {
  const clock = manualClock();
  const queue: StreamPart[] = [];
  let wake = () => {};
  const send = (part: StreamPart) => {
    queue.push(part);
    wake();
  };
  const provider: Provider = {
    name: 'bella',
    async *stream(_, signal) {
      while (!signal.aborted) {
        const part = queue.shift();
        if (part) yield part;
        else
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
    },
    async close() {},
  };
  const env = {
    BELLA_API_KEY: 'k',
    DEFAULT_MODEL: 'bella/m',
    STREAM_FLUSH_MS: '0',
    STREAM_MAX_CHARS: '100000000',
    STREAM_HEARTBEAT_MS: String(HEARTBEAT_MS),
  };
  const { app, url } = await serve(t, { env, providers: { bella: provider }, clock });
  const sockets: Socket[] = [];
  app.server.on('connection', (socket: Socket) => sockets.push(socket));
  return { clock, send, url, sockets };
}

/** Lets intervals pass in which nothing is written. Returns the number of comments in each. */
async function silentIntervals(clock: ManualClock, reading: Reading, intervals: number): Promise<number[]> {
  const counts: number[] = [];
  for (let i = 0; i < intervals; i++) {
    const before = reading.comments.length;
    clock.advance(HEARTBEAT_MS);
    await until(() => reading.comments.length > before, 'a comment');
    counts.push(reading.comments.length - before);
  }
  return counts;
}

t.test('a silent connection gets a comment in every heartbeat interval, also before the first token', async (t) => {
  const { clock, send, url } = await setUp(t);
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('start');
  const before = await silentIntervals(clock, reading, 6);
  t.ok(
    before.every((comments) => comments > 0),
    `comments before the first token: ${before}`,
  );
  send({ type: 'text', text: 'a' });
  await reading.until('delta');
  const after = await silentIntervals(clock, reading, 6);
  t.ok(
    after.every((comments) => comments > 0),
    `comments after the first token: ${after}`,
  );
  // A comment counts as written, so that not every tick sends one.
  t.ok(reading.comments.length <= 16, `${reading.comments.length} comments in 12 intervals`);
  send({ type: 'finish', reason: 'stop' });
  await reading.until('end');
  t.ok(
    reading.comments.every((comment) => comment === 'hb'),
    'a comment is `hb`',
  );
  t.equal(deltaText(reading), 'a', 'comments do not change the text');
});

t.test('a connection on which something is written gets no comment', async (t) => {
  const { clock, send, url } = await setUp(t);
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('start');
  for (let written = 1; written <= 12; written++) {
    clock.advance(2 * TICK_MS); // Half of the heartbeat interval.
    send({ type: 'text', text: 'x' });
    await until(() => deltaText(reading).length === written, `delta ${written}`);
  }
  t.same(reading.comments, [], 'no comment in six intervals');
  send({ type: 'finish', reason: 'stop' });
  await reading.until('end');
});

t.test('a client that does not read gets no comment', async (t) => {
  const { clock, send, url, sockets } = await setUp(t);
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('start');
  reading.response.pause();
  // More than the socket buffers of both sides hold.
  for (let i = 0; i < 20; i++) send({ type: 'text', text: 'x'.repeat(1_000_000) });
  send({ type: 'text', text: 'last' });
  let turnsFull = 0;
  const isStuck = () => {
    turnsFull = sockets.at(-1)?.writableNeedDrain ? turnsFull + 1 : 0;
    return turnsFull === 20;
  };
  await until(isStuck, 'the socket accepts no more');
  for (let i = 0; i < 10; i++) clock.advance(HEARTBEAT_MS);
  reading.response.resume();
  await until(() => deltaText(reading).endsWith('last'), 'the client has read everything');
  t.same(reading.comments, [], 'no comment in ten intervals');
  send({ type: 'finish', reason: 'stop' });
  await reading.until('end');
});

t.test('the silence before a comment is never longer than the heartbeat interval', async (t) => {
  const { clock, send, url } = await setUp(t);
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('start');
  clock.advance(TICK_MS / 2);
  send({ type: 'text', text: 'x' }); // Between two ticks.
  await reading.until('delta');
  clock.advance(HEARTBEAT_MS);
  await until(() => reading.comments.length === 1, 'a heartbeat');
  t.equal(reading.comments.length, 1, 'one comment');
  send({ type: 'finish', reason: 'stop' });
  await reading.until('end');
});
