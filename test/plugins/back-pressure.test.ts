import t, { type Test } from 'tap';
import { bellaAt, serve, until } from '../helper.ts';
import { open } from '../sse-client.ts';
import { sse, startUpstream, text } from '../upstream.ts';

const EVENT = text('x'.repeat(1_000));

/** Returns how many bytes an endless upstream gets rid of while its only reader takes nothing: at least `expected`. */
async function heldFor(t: Test, highWaterMark: number, expected = 1): Promise<number> {
  let sent = 0;
  let flowing = performance.now();
  const upstream = await startUpstream(t, ({ response }) => {
    sse(response);
    const more = () => {
      while (!response.destroyed) {
        sent += EVENT.length;
        flowing = performance.now();
        if (!response.write(EVENT)) return void response.once('drain', more);
      }
    };
    more();
  });
  const env = { STREAM_HIGH_WATER_MARK: String(highWaterMark), STREAM_GRACE_MS: '0', STREAM_MAX_CHARS: '200000000' };
  const { url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const reading = await open(`${url}/ask/stream?question=q`);
  reading.response.pause();
  await until(() => sent >= expected, `the upstream has sent ${expected} bytes`);
  await until(() => performance.now() - flowing > 1_000, 'the upstream stands still');
  reading.cut();
  return sent;
}

t.test('what is held for a stopped reader follows highWaterMark', async (t) => {
  const small = 16_384;
  const large = 8 * 1024 * 1024;
  const least = await heldFor(t, small);
  const most = await heldFor(t, large, least + large * 0.8);
  t.comment(`held with ${small}: ${least} bytes, with ${large}: ${most} bytes (kernel socket buffers included)`);
  // The kernel's buffers are the same in both; beyond them the setting decides, once or a few times over.
  t.ok(most - least > large * 0.8, 'a larger setting holds more');
  t.ok(most - least < large * 6, 'and not without bound');
});
