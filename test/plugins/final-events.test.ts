import type { FastifyInstance } from 'fastify';
import t, { type Test } from 'tap';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { serve, until } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { open, type Reading } from '../sse-client.ts';

/** Time that a stop leaves to clients that still read their last events. Time stands still until it is advanced. */

const FINAL_EVENT_MS = 2_000;
/** More than the socket buffers of both sides hold, so that a response stays open while its client does not read. */
const LONG_ANSWER = 'x'.repeat(20_000_000);

interface Stopping {
  readonly app: FastifyInstance;
  readonly clock: ManualClock;
  /** Has received its first event and then stopped reading. */
  readonly reading: Reading;
  /** Resolves when the drain is over. */
  readonly drained: Promise<void>;
}

/** Starts a long answer, whose client does not read, and stops the service. */
async function stopDuringAnswer(t: Test, drainMs: number, finish: StreamPart[] = []): Promise<Stopping> {
  const clock = manualClock();
  const provider: Provider = {
    name: 'bella',
    async *stream(_, signal) {
      yield { type: 'text', text: LONG_ANSWER };
      yield* finish;
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    },
    async close() {},
  };
  const env = {
    BELLA_API_KEY: 'k',
    DEFAULT_MODEL: 'bella/m',
    STREAM_MAX_CHARS: '100000000',
    STREAM_HIGH_WATER_MARK: '100000000',
    STREAM_FLUSH_MS: '0',
    DRAIN_MS: String(drainMs),
  };
  const { app, url } = await serve(t, { env, providers: { bella: provider }, clock });
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('start');
  reading.response.pause();
  const drained = app.lifecycle.drain();
  return { app, clock, reading, drained };
}

const isOver = async (promise: Promise<unknown>): Promise<boolean> => {
  let over = false;
  void promise.then(() => (over = true));
  for (let turns = 0; turns < 20; turns++) await new Promise((resolve) => setImmediate(resolve));
  return over;
};

t.test('with DRAIN_MS=0 a client has two seconds to read the error that ends its answer', async (t) => {
  const { clock, reading, drained, app } = await stopDuringAnswer(t, 0);
  clock.advance(0); // The drain is over.
  await until(() => app.streams.active === 0, 'the answer has ended');
  clock.advance(FINAL_EVENT_MS - 1);
  t.equal(await isOver(drained), false, 'the service waits for the client');
  reading.response.resume();
  t.match((await reading.until('error')).json, { code: 'stream_lost' }, 'the client gets the error');
  t.equal(await reading.ended, true, 'the response is complete');
  await drained;
});

t.test('a client that reads nothing delays a stop by two seconds at most', async (t) => {
  const { clock, reading, drained, app } = await stopDuringAnswer(t, 0);
  clock.advance(0);
  await until(() => app.streams.active === 0, 'the answer has ended');
  clock.advance(FINAL_EVENT_MS);
  await drained;
  await until(() => app.responses.open === 0, 'its connection is closed');
  reading.response.resume();
  t.equal(await reading.ended, false, 'its response is cut');
});

t.test('the client of a complete answer has the rest of DRAIN_MS to read it', async (t) => {
  const drainMs = 10_000;
  const { clock, drained, reading } = await stopDuringAnswer(t, drainMs, [{ type: 'finish', reason: 'stop' }]);
  t.equal(await isOver(drained), false, 'the service waits for the client');
  clock.advance(drainMs - 1);
  t.equal(await isOver(drained), false, 'until the end of the drain');
  clock.advance(1);
  await drained;
  reading.cut();
  t.pass('and no longer');
});
