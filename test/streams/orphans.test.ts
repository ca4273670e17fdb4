import t, { type Test } from 'tap';
import { RedisUnavailable } from '../../plugins/redis/connection.ts';
import type { Cluster } from '../../plugins/redis/index.ts';
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

/** Lets a command fail that Redis has run, if `isLost` says so. */
function loseReply({ connection }: Cluster, isLost: () => Promise<boolean>): void {
  const run = connection.run.bind(connection) as (call: unknown) => Promise<unknown>;
  Object.assign(connection, {
    async run(call: unknown) {
      const reply = await run(call);
      if (await isLost()) throw new RedisUnavailable('no reply');
      return reply;
    },
  });
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
    await until(async () => (await redis.client.xlen(`p:log:{${logs.at(-1)?.info.id}}`)) > 1, 'the text is in Redis');
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

  for (const readers of ['no reader', 'readers that leave', 'readers that stay'] as const) {
    t.test(`a stream with ${readers} is ended once if the reply to its takeover is lost`, async (t) => {
      const redis = await startRedis(t);
      const { replicas, taken } = await startReplicas(t, redis, 3);
      const [dead, ...others] = replicas;
      const { info } = await create(dead, 'one');
      const attached: LogReader[] = [];
      for (const { store } of readers === 'no reader' ? [] : others) {
        const reader = await (await store.open(info.id))?.read(0);
        t.ok((await reader?.next())?.parts);
        attached.push(reader as LogReader);
      }
      let lost = 0;
      for (const { cluster } of others) {
        loseReply(cluster, async () => {
          const isTakenOver = (await redis.client.hget(`p:meta:{${info.id}}`, 'producer')) === cluster.replica;
          if (!isTakenOver || lost > 0) return false;
          lost += 1;
          if (readers === 'readers that leave') for (const reader of attached) reader.close();
          return true;
        });
      }
      dead.die();
      await until(() => taken.length > 0, 'the stream is taken over');
      t.equal(lost, 1, 'by a replica that had no reply first');
      t.match(taken, [{ id: info.id, length: 3 }]);
      if (readers === 'readers that stay') {
        for (const reader of attached) t.same((await lastOf(reader))?.terminal, LOST, 'its readers get the end');
      }
      const late = await others[0]?.store.open(info.id);
      t.same((await lastOf(await late?.read(0)))?.terminal, LOST, 'and so does a later one');
      t.equal(taken.length, 1, 'once');
    });
  }

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
