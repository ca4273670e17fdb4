import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import type { Slice, StreamStore, Terminal, WritableLog } from '../../plugins/streams/types.ts';
import { heapBytes } from '../heap.ts';
import { until } from '../helper.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, newId, text } from './conformance.ts';
import { redisStore } from './redis-replica.ts';

/** What becomes of logs whose producer has died, or whose Redis never comes back. */

const info = () => ({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o' });
const LOST: Terminal = { type: 'error', code: 'stream_lost', message: '', status: 502, retryable: true };

/**
 * Repeats what fails because Redis did not answer in time: on a busy machine it takes longer than the service
 * waits for it. Clients of the service do the same.
 */
async function retry<T>(operation: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await operation();
    } catch (error) {
      if (tries === 20) throw error;
      await sleep(100);
    }
  }
}

/** Reads a log to its end, and returns the last slice. */
const readToEnd = (store: StreamStore, id: string): Promise<Slice> =>
  retry(async () => {
    const reader = await (await store.open(id))?.read(0);
    if (reader === undefined) throw new Error('no such log');
    for (;;) {
      const slice = await reader.next();
      if (slice.terminal !== undefined) return slice;
    }
  });

t.test('with Redis', { skip: noRedis }, async (t) => {
  t.jobs = 3;

  t.test('a reader that has stopped does not hold up the takeover of other streams', async (t) => {
    const redis = await startRedis(t);
    const a = await redisStore(t, redis, { highWaterMark: 100 }, 'p');
    const b = await redisStore(t, redis, { highWaterMark: 100 }, 'p');
    b.store.onTakeover((log) => log.end(LOST));
    const logs: WritableLog[] = [];
    for (let i = 0; i < 2; i++) logs.push(await retry(() => createLog(a.store, info())));
    const [stoppedId, healthyId] = logs.map(({ info: { id } }) => id) as [string, string];
    const stopped = await retry(async () => (await b.store.open(stoppedId))?.read(0));
    const healthy = readToEnd(b.store, healthyId);
    void logs[0]?.append(text('x'.repeat(60_000)));
    void logs[1]?.append(text('y'));
    await stopped?.next();
    await sleep(2_500); // B is steady by then.
    a.die();
    t.same((await healthy).terminal, LOST, 'the healthy reader is told while the other still reads nothing');
    stopped?.close();
  });

  t.test('of several that notice, one takes over, and all readers get what it writes', async (t) => {
    const redis = await startRedis(t);
    const a = await redisStore(t, redis, {}, 'q');
    const others = await Promise.all([1, 2, 3].map(() => redisStore(t, redis, {}, 'q')));
    let heirs = 0;
    for (const { store } of others) {
      store.onTakeover((log) => {
        heirs += 1;
        void log.append(text(' more'));
        log.end({ type: 'end', finishReason: 'stop' });
      });
    }
    const log = await retry(() => createLog(a.store, info()));
    void log.append(text('so far'));
    const readers = others.map(({ store }) => readToEnd(store, log.info.id));
    await sleep(2_500);
    a.die();
    const answers = (await Promise.all(readers)).map(({ answer }) => answer);
    t.same(answers, Array(3).fill('so far more'));
    t.equal(heirs, 1);
  });

  t.test('while Redis is away, what has ended is held for its time to live and no longer', async (t) => {
    const redis = await startRedis(t);
    const { store } = await redisStore(t, redis, { ttlMs: 50 });
    await redis.stop();
    const held: WeakRef<WritableLog>[] = [];
    await (async () => {
      for (let i = 0; i < 50; i++) {
        const log = await createLog(store, info());
        void log.append(text('x'.repeat(10_000)));
        log.end({ type: 'end', finishReason: 'stop' });
        held.push(new WeakRef(log));
      }
    })();
    const collected = () => {
      heapBytes(); // Collects garbage.
      return held.every((one) => one.deref() === undefined);
    };
    await until(collected, 'no log is held any more');
  });
});
