import t from 'tap';
import { heapBytes } from '../heap.ts';
import { bellaAt, build, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { startUpstream, unfinishedAnswer } from '../upstream.ts';

const STREAMS = 2_000;
const GRACE_MS = 15_000;
const TTL_MS = 300_000;

t.test(`${STREAMS} streams started and abandoned leave nothing`, { timeout: 120_000 }, async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('x'.repeat(500)));
  const clock = manualClock();
  const app = await build(t, { env: bellaAt(upstream.url), clock });
  const timersBefore = clock.pending;

  const round = async (streams: number) => {
    const calls = upstream.calls.length;
    const ids: string[] = [];
    for (let i = 0; i < streams; i += 50) {
      const batch = Array.from({ length: 50 }, () =>
        app.inject({ method: 'POST', url: '/streams', payload: { question: 'q' } }),
      );
      for (const response of await Promise.all(batch)) ids.push(response.json().id);
      // Not all at once: a listener's queue that overflows would make some of them try again.
      await until(() => upstream.calls.length === calls + ids.length, 'every call has come', 30_000);
    }
    const running = app.streams.active;
    const heapWhile = heapBytes();
    clock.advance(GRACE_MS);
    const afterGrace = app.streams.active;
    await Promise.all(upstream.calls.map((call) => call.closed));
    upstream.calls.length = 0;
    const kept = await app.streams.find(ids[0] as string, { owner: 'anybody' });
    clock.advance(TTL_MS);
    return {
      running,
      afterGrace,
      kept: kept !== undefined,
      heapWhile,
      gone: (await app.streams.find(ids[0] as string, { owner: 'anybody' })) === undefined,
    };
  };

  await round(STREAMS); // fills pools, caches and compiled code
  const before = heapBytes();
  const result = await round(STREAMS);
  t.match(result, { running: STREAMS, afterGrace: 0, kept: true, gone: true });
  t.equal(clock.pending, timersBefore, 'no timer is left');
  t.equal(await openSockets(upstream.url), 0, 'no socket is left');
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  // Closed sockets are let go by the event loop in its own time.
  await until(() => heapBytes() < before * 1.1, `the heap is back at ${mib(before)}`, 20_000);
  t.comment(`heap ${mib(before)} before, ${mib(result.heapWhile)} while, ${mib(heapBytes())} after`);
  t.ok(result.heapWhile > before * 1.1, 'and would have shown them');
});

/** Sockets of this process that lead to `url`. */
async function openSockets(url: string): Promise<number> {
  const port = Number(new URL(url).port);
  const sockets = (
    process as unknown as { _getActiveHandles(): { remotePort?: number; destroyed?: boolean }[] }
  )._getActiveHandles();
  return sockets.filter((socket) => socket.remotePort === port && !socket.destroyed).length;
}
