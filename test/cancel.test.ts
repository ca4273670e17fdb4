import t, { type Test } from 'tap';
import { bellaAt, serve, until } from './helper.ts';
import { open } from './sse-client.ts';
import { type Script, silent, sse, startUpstream, text } from './upstream.ts';

/** Without a grace time, the disconnect of the last reader aborts the upstream call in every state of the call. */

const REPETITIONS = 50;
/** Usually below 100 ms. The limit is ten times that, and still far below any timer that could end the call. */
const MAX_DELAY_MS = 1_000;

const STATES: Record<
  string,
  { script: Script; reached: (untilEvent: (type: string) => Promise<unknown>) => Promise<unknown> }
> = {
  'before headers': { script: silent, reached: (untilEvent) => untilEvent('start') },
  'before the first token': {
    script: ({ response }) => void sse(response).write(': thinking\n\n'),
    reached: (untilEvent) => untilEvent('start'),
  },
  'mid-stream': {
    script: ({ response }) => void sse(response).write(text('partial')),
    reached: (untilEvent) => untilEvent('delta'),
  },
};

for (const [state, { script, reached }] of Object.entries(STATES)) {
  t.test(`a disconnect ${state} aborts the upstream call`, async (t) => {
    const upstream = await startUpstream(t, script);
    const { app, url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
    const delays: number[] = [];
    for (let i = 1; i <= REPETITIONS; i++) {
      const reading = await open(`${url}/ask/stream?question=q`);
      const call = await upstream.call(i);
      await reached(reading.until);
      const cutAt = performance.now();
      reading.cut();
      await call.closed;
      t.equal(call.finished, false, 'the upstream call is aborted');
      delays.push((call.closedAt as number) - cutAt);
    }
    await assertAborted(t, delays, () => app.streams.active);
  });
}

t.test('a disconnect under back-pressure aborts the upstream call', async (t) => {
  let lastWriteAt = 0;
  const block = text('x'.repeat(8_000));
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const writeMore = () => {
      while (!response.destroyed) {
        lastWriteAt = performance.now();
        if (!response.write(block)) return void response.once('drain', writeMore);
      }
    };
    writeMore();
  });
  const { app, url } = await serve(t, {
    env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0', STREAM_MAX_CHARS: '200000000' }),
  });
  const delays: number[] = [];
  for (let i = 1; i <= REPETITIONS; i++) {
    const reading = await open(`${url}/ask/stream?question=q`);
    reading.response.pause();
    const call = await upstream.call(i);
    await until(() => performance.now() - lastWriteAt > 60, 'back-pressure has stopped the upstream', 20_000);
    const cutAt = performance.now();
    reading.cut();
    await call.closed;
    delays.push((call.closedAt as number) - cutAt);
  }
  await assertAborted(t, delays, () => app.streams.active);
});

/** Asserts that every call was aborted in time and that no generation is left. */
async function assertAborted(t: Test, delays: readonly number[], active: () => number): Promise<void> {
  const slowest = Math.max(...delays);
  t.comment(`${delays.length} aborts, slowest ${slowest.toFixed(1)} ms`);
  t.equal(delays.length, REPETITIONS, 'every call was aborted');
  t.ok(slowest < MAX_DELAY_MS, `the slowest abort took ${slowest.toFixed(1)} ms`);
  await until(() => active() === 0, 'no generation is left');
}
