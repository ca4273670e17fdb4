import t, { type Test } from 'tap';
import { bellaAt, serve, until } from './helper.ts';
import { open } from './sse-client.ts';
import { type Call, type Script, silent, sse, startUpstream, text } from './upstream.ts';

/** A reader that leaves ends the upstream call at once, whatever state the call is in. */

const TIMES = 50;
/** Takes below 100 ms on a quiet machine. Ten times that is still far below any timer that could end the call. */
const LIMIT_MS = 1_000;

const STATES: Record<
  string,
  { script: Script; reached: (call: Call, type: (type: string) => Promise<unknown>) => Promise<unknown> }
> = {
  'before headers': { script: silent, reached: async (_, event) => event('start') },
  'before the first token': {
    script: ({ response }) => void sse(response).write(': thinking\n\n'),
    reached: async (_, event) => event('start'),
  },
  'mid-stream': {
    script: ({ response }) => void sse(response).write(text('partial')),
    reached: async (_, event) => event('delta'),
  },
};

for (const [state, { script, reached }] of Object.entries(STATES)) {
  t.test(`gone ${state}`, async (t) => {
    const upstream = await startUpstream(t, script);
    const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
    const delays: number[] = [];
    for (let i = 1; i <= TIMES; i++) {
      const reading = await open(`${url}/ask/stream?question=q`);
      const call = await upstream.call(i);
      await reached(call, reading.until);
      const left = performance.now();
      reading.cut();
      await call.closed;
      t.equal(call.finished, false);
      delays.push((call.closedAt as number) - left);
    }
    await check(t, delays, () => app.streams.active);
  });
}

t.test('gone while back-pressured', async (t) => {
  let flowing = 0;
  const big = text('x'.repeat(8_000));
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const more = () => {
      while (!response.destroyed) {
        flowing = performance.now();
        if (!response.write(big)) return void response.once('drain', more);
      }
    };
    more();
  });
  const { app, url } = await serve(t, {
    env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0', STREAM_MAX_CHARS: '200000000' }),
  });
  const delays: number[] = [];
  for (let i = 1; i <= TIMES; i++) {
    const reading = await open(`${url}/ask/stream?question=q`);
    reading.response.pause();
    const call = await upstream.call(i);
    await until(() => performance.now() - flowing > 60, 'nothing flows any more', 20_000);
    const left = performance.now();
    reading.cut();
    await call.closed;
    delays.push((call.closedAt as number) - left);
  }
  await check(t, delays, () => app.streams.active);
});

async function check(t: Test, delays: readonly number[], active: () => number): Promise<void> {
  const worst = Math.max(...delays);
  t.comment(`${delays.length} times, slowest ${worst.toFixed(1)} ms`);
  t.equal(delays.length, TIMES);
  t.ok(worst < LIMIT_MS, `slowest ${worst.toFixed(1)} ms`);
  await until(() => active() === 0, 'no generation is left');
}
