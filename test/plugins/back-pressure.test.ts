import t, { type Test } from 'tap';
import { bellaAt, serve, until } from '../helper.ts';
import { open } from '../sse-client.ts';
import { sse, startUpstream, text } from '../upstream.ts';

const EVENT = text('x'.repeat(1_000));

/**
 * Returns the number of bytes that an endless upstream can send while its only reader reads nothing. Waits for
 * at least `minBytes`.
 */
async function bytesSentToStoppedReader(t: Test, highWaterMark: number, minBytes = 1): Promise<number> {
  let sent = 0;
  let lastSentAt = performance.now();
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const sendMore = () => {
      while (!response.destroyed) {
        sent += EVENT.length;
        lastSentAt = performance.now();
        if (!response.write(EVENT)) return void response.once('drain', sendMore);
      }
    };
    sendMore();
  });
  const env = { STREAM_HIGH_WATER_MARK: String(highWaterMark), STREAM_GRACE_MS: '0', STREAM_MAX_CHARS: '200000000' };
  const { url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const reading = await open(`${url}/ask/stream?question=q`);
  reading.response.pause();
  await until(() => sent >= minBytes, `the upstream has sent ${minBytes} bytes`);
  // The kernel still moves bytes between its socket buffers, so the end of the sending shows only after a pause.
  await until(() => performance.now() - lastSentAt > 1_000, 'the upstream has sent nothing for a second');
  reading.cut();
  return sent;
}

t.test('highWaterMark bounds the bytes that are buffered for a reader that does not read', async (t) => {
  const small = 16_384;
  const large = 8 * 1024 * 1024;
  const withSmall = await bytesSentToStoppedReader(t, small);
  const withLarge = await bytesSentToStoppedReader(t, large, withSmall + large * 0.8);
  t.comment(`${withSmall} bytes with ${small}, ${withLarge} bytes with ${large} (including kernel socket buffers)`);
  // The kernel buffers the same in both cases. Beyond that, buffers of the size of the setting are filled, up to a few.
  t.ok(withLarge - withSmall > large * 0.8, 'a larger setting buffers more');
  t.ok(withLarge - withSmall < large * 6, 'the buffered bytes are bounded');
});
