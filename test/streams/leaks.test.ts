import t from 'tap';
import { ANONYMOUS } from '../../plugins/auth/identity.ts';
import { heapBytes } from '../heap.ts';
import { bellaAt, build, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { startUpstream, unfinishedAnswer } from '../upstream.ts';

const STREAMS = 2_000;
const GRACE_MS = 15_000;
const TTL_MS = 300_000;

t.test(`${STREAMS} abandoned streams leave no memory, timers or sockets behind`, { timeout: 120_000 }, async (t) => {
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
      // In batches: if the accept queue of the upstream overflowed, some calls would be retried.
      await until(() => upstream.calls.length === calls + ids.length, 'the upstream has every call of the batch');
    }
    const running = app.streams.active;
    const heapWhileRunning = heapBytes();
    clock.advance(GRACE_MS);
    const afterGrace = app.streams.active;
    await Promise.all(upstream.calls.map((call) => call.closed));
    upstream.calls.length = 0;
    const ended = await app.streams.find(ids[0] as string, ANONYMOUS);
    clock.advance(TTL_MS);
    return {
      running,
      afterGrace,
      readable: ended !== undefined,
      heapWhileRunning,
      expired: (await app.streams.find(ids[0] as string, ANONYMOUS)) === undefined,
    };
  };

  await round(STREAMS); // fills pools, caches and compiled code
  const heapBefore = heapBytes();
  const result = await round(STREAMS);
  t.match(result, { running: STREAMS, afterGrace: 0, readable: true, expired: true });
  t.equal(clock.pending, timersBefore, 'no timer is pending');
  t.equal(await openSockets(upstream.url), 0, 'no socket is open');
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  // The event loop releases closed sockets later.
  await until(() => heapBytes() < heapBefore * 1.1, `the heap is back at ${mib(heapBefore)}`, 20_000);
  t.comment(`heap ${mib(heapBefore)} before, ${mib(result.heapWhileRunning)} while running, ${mib(heapBytes())} after`);
  t.ok(result.heapWhileRunning > heapBefore * 1.1, 'running streams raise the heap above the limit');
});

/** Counts the open sockets of this process that are connected to `url`. */
async function openSockets(url: string): Promise<number> {
  const port = Number(new URL(url).port);
  const sockets = (
    process as unknown as { _getActiveHandles(): { remotePort?: number; destroyed?: boolean }[] }
  )._getActiveHandles();
  return sockets.filter((socket) => socket.remotePort === port && !socket.destroyed).length;
}
