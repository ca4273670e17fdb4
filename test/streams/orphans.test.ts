import t, { type Test } from 'tap';
import type { LogReader, Slice, Terminal, WritableLog } from '../../plugins/streams/types.ts';
import { until } from '../helper.ts';
import { noRedis, type RedisServer, startRedis } from '../redis.ts';
import { createLog, newId, text } from './conformance.ts';
import { type Replica, redisStore } from './redis-replica.ts';

/** Streams whose producer is dead and that nobody reads. */

const info = () => ({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o' });
const LOST: Terminal = { type: 'error', code: 'stream_lost', message: '', status: 502, retryable: true };
const DONE: Terminal = { type: 'end', finishReason: 'stop' };

interface Taken {
  readonly id: string;
  readonly length: number;
  readonly prompt: string | undefined;
}

/** Starts replicas that end what they take over, and keep what their handler gets. */
async function startReplicas(t: Test, redis: RedisServer, count: number) {
  const taken: Taken[] = [];
  const replicas = await Promise.all(Array.from({ length: count }, () => redisStore(t, redis, {}, 'p')));
  for (const { store } of replicas) {
    store.onTakeover((log, prompt) => {
      taken.push({ id: log.info.id, length: log.length, prompt });
      log.end(LOST);
    });
  }
  return { replicas: replicas as [Replica, Replica, Replica], taken };
}

/** Returns the names in Redis of what a replica produces. */
const namesOf = async (redis: RedisServer, { cluster }: Replica) =>
  Object.keys(await redis.client.hgetall(`p:producing:${cluster.replica}`)).sort();
const replicasIn = async (redis: RedisServer) => Object.keys(await redis.client.hgetall('p:replicas')).sort();
const idsOf = (replicas: readonly Replica[]) => replicas.map(({ cluster }) => cluster.replica).sort();

async function lastOf(reader: LogReader | undefined): Promise<Slice | undefined> {
  for (;;) {
    const slice = await reader?.next();
    if (slice === undefined || slice.terminal !== undefined) return slice;
  }
}

const create = async ({ store }: Replica, content: string, prompt?: string): Promise<WritableLog> => {
  const created =
    prompt === undefined ? await createLog(store, info()) : (await store.create(info(), undefined, prompt)).log;
  const log = created as WritableLog;
  if (content !== '') void log.append(text(content));
  return log;
};

t.test('orphans', { skip: noRedis }, async (t) => {
  t.jobs = 4;

  t.test('each stream of a dead producer is ended once, whole, and not continued', async (t) => {
    const redis = await startRedis(t);
    const { replicas, taken } = await startReplicas(t, redis, 3);
    const [dead, ...others] = replicas;
    await until(async () => (await replicasIn(redis)).length === 3, 'all replicas are known');
    const logs = await Promise.all(Array.from({ length: 200 }, (_, i) => create(dead, 'x'.repeat(i), 'the prompt')));
    const ended = await create(dead, 'ended');
    ended.end(DONE);
    await until(async () => (await redis.client.xlen(`p:log:${logs.at(-1)?.info.id}`)) > 1, 'the text is in Redis');
    await until(
      async () => (await namesOf(redis, dead)).length === 200,
      'the streams are named, without the ended one',
    );
    dead.die();
    await until(() => taken.length === 200, 'all streams are taken over');
    await until(async () => (await namesOf(redis, dead)).length === 0, 'their names are removed');
    t.same(taken.map(({ id }) => id).sort(), logs.map(({ info }) => info.id).sort(), 'each once');
    const lengths = new Map(taken.map(({ id, length }) => [id, length]));
    t.same(
      logs.map(({ info }) => lengths.get(info.id)),
      logs.map((_, i) => i),
      'with all of their text',
    );
    t.ok(
      taken.every(({ prompt }) => prompt === undefined),
      'without the prompt',
    );
    await until(async () => (await replicasIn(redis)).length === 2, 'the dead replica is forgotten');
    t.same(await replicasIn(redis), idsOf(others));
    const late = await (await others[0]?.store.open(logs[150]?.info.id ?? ''))?.read(0);
    t.same((await lastOf(late))?.terminal, LOST, 'a later reader gets the end');
  });

  t.test('a stream with a reader is continued by its replica, with its prompt', async (t) => {
    const redis = await startRedis(t);
    const { replicas, taken } = await startReplicas(t, redis, 3);
    const [dead, reading] = replicas;
    const log = await create(dead, 'one', 'the prompt');
    const reader = await (await reading.store.open(log.info.id))?.read(0);
    t.same(
      (await reader?.next())?.parts.map(({ part }) => part),
      [text('one')],
    );
    const other = await create(dead, 'two');
    await until(async () => (await namesOf(redis, dead)).length === 2, 'both are named');
    dead.die();
    t.same((await lastOf(reader))?.terminal, LOST);
    await until(() => taken.length === 2, 'both are taken over');
    t.same(taken.find(({ id }) => id === log.info.id)?.prompt, 'the prompt');
    t.same(taken.find(({ id }) => id === other.info.id)?.prompt, undefined);
  });

  t.test('names that Redis has lost are sent again, and those of a replica that has closed are gone', async (t) => {
    const redis = await startRedis(t);
    const { replicas, taken } = await startReplicas(t, redis, 3);
    const [producer, closing, other] = replicas;
    const log = await create(producer, 'x');
    await until(async () => (await replicasIn(redis)).length === 3, 'all replicas are known');
    await redis.client.flushall();
    await until(async () => (await namesOf(redis, producer)).length === 1, 'the stream is named again');
    await until(async () => (await replicasIn(redis)).length === 3, 'all replicas are known again');
    await closing.store.close();
    t.same(await replicasIn(redis), idsOf([producer, other]), 'a replica that produces nothing leaves nothing');
    await redis.stop();
    log.end(DONE);
    const missed = await create(producer, 'y');
    await redis.start();
    await until(
      async () => (await namesOf(redis, producer)).join() === missed.info.id,
      'ends and begins that Redis has missed',
    );
    t.same(taken, [], 'nothing was taken over from replicas that live');
  });
});
