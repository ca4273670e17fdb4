import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import type { LogReader, Slice, StreamStore, Terminal, WritableLog } from '../../plugins/streams/types.ts';
import { heapBytes } from '../heap.ts';
import { until } from '../helper.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, newId, text } from './conformance.ts';
import { type Replica, redisStore } from './redis-replica.ts';

/** Tests logs whose producer has died, and logs that Redis never received. */

/** A replica takes logs over only after its own lease was renewed for this long. */
const MIN_RENEWED_MS = 2_000;

const info = () => ({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o' });
const LOST: Terminal = { type: 'error', code: 'stream_lost', message: '', status: 502, retryable: true };

const mayTakeOver = ({ cluster }: Replica) =>
  until(() => cluster.lease.renewedForMs >= MIN_RENEWED_MS, 'the replica may take over logs');

/** Repeats an operation that fails because a busy machine delays Redis, as clients of the service do. */
async function retry<T>(operation: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await operation();
    } catch (error) {
      if (tries === 20) throw error;
      await sleep(100); // Paces the retries.
    }
  }
}

const openReader = (store: StreamStore, id: string): Promise<LogReader> =>
  retry(async () => {
    const reader = await (await store.open(id))?.read(0);
    if (reader === undefined) throw new Error('no such log');
    return reader;
  });

t.test('takeover', { skip: noRedis }, async (t) => {
  t.jobs = 3;

  t.test('a reader that does not read does not delay the takeover of other streams', async (t) => {
    const redis = await startRedis(t);
    const a = await redisStore(t, redis, { highWaterMark: 100 }, 'p');
    const b = await redisStore(t, redis, { highWaterMark: 100 }, 'p');
    b.store.onTakeover((log) => log.end(LOST));
    const logs: WritableLog[] = [];
    for (let i = 0; i < 2; i++) logs.push(await retry(() => createLog(a.store, info())));
    const [stopped, healthy] = await Promise.all(logs.map((log) => openReader(b.store, log.info.id)));
    void logs[0]?.append(text('x'.repeat(60_000)));
    void logs[1]?.append(text('y'));
    await stopped?.next();
    await healthy?.next();
    await mayTakeOver(b);
    a.die();
    let last: Slice | undefined;
    while (last?.terminal === undefined) last = await healthy?.next();
    t.same(last.terminal, LOST, 'the healthy reader gets stream_lost while the other reads nothing');
    stopped?.close();
  });

  t.test('exactly one of three replicas takes over, and all readers get what it writes', async (t) => {
    const redis = await startRedis(t);
    const a = await redisStore(t, redis, {}, 'q');
    const others = await Promise.all([1, 2, 3].map(() => redisStore(t, redis, {}, 'q')));
    let takeovers = 0;
    for (const { store } of others) {
      store.onTakeover((log) => {
        takeovers += 1;
        void log.append(text(' more'));
        log.end({ type: 'end', finishReason: 'stop' });
      });
    }
    const log = await retry(() => createLog(a.store, info()));
    void log.append(text('so far'));
    const readers = await Promise.all(others.map(({ store }) => openReader(store, log.info.id)));
    await Promise.all(others.map(mayTakeOver));
    a.die();
    const answers = await Promise.all(
      readers.map(async (reader) => {
        let slice: Slice | undefined;
        while (slice?.terminal === undefined) slice = await reader.next();
        return slice.answer;
      }),
    );
    t.same(answers, Array(3).fill('so far more'), 'every reader gets the whole answer');
    t.equal(takeovers, 1, 'one replica takes over');
  });

  t.test('while Redis is unavailable, ended logs are released after their time to live', async (t) => {
    const redis = await startRedis(t);
    const { store } = await redisStore(t, redis, { ttlMs: 50 });
    await redis.stop();
    const logs: WeakRef<WritableLog>[] = [];
    await (async () => {
      for (let i = 0; i < 50; i++) {
        const log = await createLog(store, info());
        void log.append(text('x'.repeat(10_000)));
        log.end({ type: 'end', finishReason: 'stop' });
        logs.push(new WeakRef(log));
      }
    })();
    const areCollected = () => {
      heapBytes(); // Collects garbage.
      return logs.every((log) => log.deref() === undefined);
    };
    await until(areCollected, 'no log is in memory');
  });
});
