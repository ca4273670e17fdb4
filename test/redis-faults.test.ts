import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { bellaAt, serve, until } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { noRedis, type RedisServer, startRedis } from './redis.ts';
import { startOneNodeCluster } from './redis-cluster.ts';
import { type Replicas, startReplicas } from './replicas.ts';
import { deltaText, open, type Reading, readAll } from './sse-client.ts';
import {
  completeAnswer,
  numberedAnswer,
  numberedDeltas,
  type Script,
  startUpstream,
  text,
  unfinishedAnswer,
} from './upstream.ts';

/** Faults of a real Redis, as readers and operators notice them. */

/** Answers with `count` numbers, one every 20 ms. */
const answerOf = (count: number) => numberedAnswer(count, 20);

/** Returns the text of `answerOf(count)`. */
const textOf = (count: number) => numberedDeltas(count).join('');

/** Returns `resumable` of every `status` event until now. */
const resumableChanges = ({ events }: Reading) =>
  events.filter(({ json }) => json?.type === 'status').map(({ json }) => json.resumable);

/** Asserts that each `status` event is a change, and that the stream was not resumable for a while, and is again. */
function assertChanges(t: Test, reading: Reading): void {
  const changes = resumableChanges(reading);
  t.ok(changes.includes(false), 'the reader gets `resumable: false`');
  t.equal(changes.at(-1), true, 'and `resumable: true` in the end');
  // On a busy machine, Redis may count as unavailable more than once.
  t.notOk(
    changes.some((value, i) => value === changes[i - 1]),
    `the reader gets each status once: ${changes}`,
  );
}

/** Starts a stream on A, with a reader on A (`local`) and one on B (`remote`). Waits until both get deltas. */
async function startWithTwoReaders({ a, b }: Replicas): Promise<{ local: Reading; remote: Reading }> {
  const local = await open(`${a.url}/ask/stream?question=q`);
  const { json } = await local.until('start');
  await local.until('delta');
  await until(() => json.resumable || resumableChanges(local).includes(true), 'the stream is resumable');
  const remote = await open(`${b.url}${json.url}`);
  await remote.until('delta');
  return { local, remote };
}

async function testFaults(t: Test, start: (t: Test) => Promise<RedisServer>): Promise<void> {
  t.jobs = 3;
  const startReplicasWith = (t: Test, script: Script, env = {}) => startReplicas(t, script, env, start);

  t.test('Redis unavailable at the start: the service answers, and uses Redis once it is available', async (t) => {
    const upstream = await startUpstream(t, completeAnswer('x'));
    const redis = await start(t);
    await redis.stop();
    const env = bellaAt(upstream.url, { REDIS_URL: redis.url });
    const { app, url } = await serve(t, { env });
    const reading = await readAll(`${url}/ask/stream?question=q`);
    t.match(reading.events[0]?.json, { type: 'start', resumable: false }, 'the stream is not resumable');
    t.equal(reading.events.at(-1)?.json.answer, 'x', 'the answer is complete');
    t.equal((await fetch(`${url}/readyz`)).status, 200, 'ready without Redis by default');
    t.equal(await metricValue(app, 'sluice_redis_up'), 0, 'sluice_redis_up');
    const strict = await serve(t, { env: { ...env, REDIS_REQUIRED: 'true' } });
    t.equal((await fetch(`${strict.url}/readyz`)).status, 503, 'not ready without Redis if REDIS_REQUIRED is set');
    await redis.start();
    await until(
      () => app.cluster?.connection.isAvailable === true && strict.app.cluster?.connection.isAvailable === true,
      'both services are connected to Redis',
    );
    const { events } = await readAll(`${url}/ask/stream?question=q`);
    t.match(events[0]?.json, { type: 'start', resumable: true }, 'a new stream is resumable');
    t.equal((await fetch(`${strict.url}/readyz`)).status, 200, 'ready with Redis');
  });

  t.test('Redis restarted empty: running answers continue, and are resumable again afterwards', async (t) => {
    const replicas = await startReplicasWith(t, answerOf(300));
    const { redis, a, b, upstream } = replicas;
    const { local, remote } = await startWithTwoReaders(replicas);
    await redis.stop();
    const eventsBefore = local.events.length;
    await until(() => resumableChanges(local).includes(false), 'the reader gets `resumable: false`');
    await until(() => local.events.length > eventsBefore + 20, 'deltas continue');
    const unsynced = await open(`${a.url}/ask/stream?question=q2`);
    t.equal((await unsynced.until('start')).json.resumable, false, 'a new stream is not resumable');
    const headers = { 'last-event-id': local.events.at(-1)?.id };
    const resumed = await open(`${b.url}/ask/stream?question=q`, { headers });
    await resumed.ended;
    t.same([resumed.response.statusCode, resumed.events], [200, []], 'a resume on B gets no event');
    t.ok(resumed.retry, 'a resume on B gets a reconnect delay');
    await redis.start();
    const restartedAt = performance.now();
    await until(() => resumableChanges(local).includes(true), 'the reader gets `resumable: true`');
    t.comment(`resumable ${Math.round(performance.now() - restartedAt)} ms after the restart of Redis`);
    const fresh = await open(`${b.url}/ask/stream?question=q3`);
    await until(
      () => resumableChanges(fresh).includes(true) || fresh.events[0]?.json.resumable,
      'a new stream is resumable',
    );
    for (const reading of [local, remote]) {
      const { json } = await reading.until('end');
      t.equal(json.answer, textOf(300), '`end` has the complete answer');
      t.equal(deltaText(reading), json.answer, 'the deltas make the complete answer');
    }
    t.equal(upstream.calls.length, 3, 'no question is asked twice');
    t.ok((await metricValue(a.app, 'sluice_streams_unsynced_total')) >= 1, 'sluice_streams_unsynced_total');
    unsynced.cut();
    fresh.cut();
  });

  t.test('Redis does not reply: answers continue, and readers get each status once', async (t) => {
    const replicas = await startReplicasWith(t, answerOf(300));
    const { redis, a } = replicas;
    const { local, remote } = await startWithTwoReaders(replicas);
    redis.child.kill('SIGSTOP');
    await until(() => resumableChanges(local).includes(false), 'the reader gets `resumable: false`');
    const eventsBefore = local.events.length;
    await until(() => local.events.length > eventsBefore + 20, 'deltas continue while Redis does not reply');
    redis.child.kill('SIGCONT');
    const timeouts = await metricValue(a.app, 'sluice_redis_failures_total', { reason: 'timeout' });
    t.ok(timeouts >= 1, 'sluice_redis_failures_total with reason timeout');
    for (const reading of [local, remote]) {
      await reading.until('end');
      t.equal(deltaText(reading), textOf(300), 'the deltas make the complete answer');
    }
    assertChanges(t, local);
  });

  t.test('Redis out of memory: answers continue, and stored streams can be read', async (t) => {
    const replicas = await startReplicasWith(t, answerOf(500));
    const { redis, a, b } = replicas;
    const { local, remote } = await startWithTwoReaders(replicas);
    const stopped = await open(`${a.url}/ask/stream?question=short`);
    await stopped.until('delta');
    await fetch(`${a.url}${stopped.events[0]?.json.url}`, { method: 'DELETE' });
    await stopped.ended;
    await redis.client.config('SET', 'maxmemory', '1');
    await until(() => resumableChanges(local).includes(false), 'the reader gets `resumable: false`');
    const stored = await readAll(`${b.url}${stopped.events[0]?.json.url}`);
    t.equal(stored.events.at(-1)?.json.answer, deltaText(stopped), 'a stored stream can be read');
    const leases = () => redis.client.keys('*:{replica}:*');
    await until(async () => (await leases()).length === 0, 'no replica can renew its lease');
    const failures = await metricValue(a.app, 'sluice_redis_failures_total', { reason: 'oom' });
    t.ok(failures >= 1, 'sluice_redis_failures_total with reason oom');
    await redis.client.config('SET', 'maxmemory', '0');
    for (const reading of [local, remote]) {
      t.equal((await reading.until('end')).json.answer, textOf(500), '`end` has the complete answer');
      t.equal(deltaText(reading), textOf(500), 'the deltas make the complete answer');
    }
    assertChanges(t, local);
  });

  t.test('a stream ends while Redis does not reply: remote readers get its end afterwards', async (t) => {
    const replicas = await startReplicasWith(t, answerOf(100));
    const { redis } = replicas;
    const { local, remote } = await startWithTwoReaders(replicas);
    redis.child.kill('SIGSTOP');
    await local.until('end');
    await sleep(4_000); // Longer than the 3.5 s after which the producer forgets remote readers that do not report.
    redis.child.kill('SIGCONT');
    await remote.until('end');
    t.equal(deltaText(remote), textOf(100), 'the deltas make the complete answer');
  });

  t.test('Redis emptied: running streams are written again, ended streams are unknown', async (t) => {
    const replicas = await startReplicasWith(t, answerOf(200));
    const { redis, a, b } = replicas;
    const ended = await readAll(`${a.url}/ask/stream?question=short`);
    const { local, remote } = await startWithTwoReaders(replicas);
    await redis.client.flushall();
    const unknown = await readAll(`${b.url}/ask/stream?question=q`, {
      headers: { 'last-event-id': ended.events[1]?.id },
    });
    t.equal(unknown.events[0]?.json.code, 'stream_unknown', 'an ended stream is unknown');
    for (const reading of [local, remote]) {
      t.equal((await reading.until('end')).json.answer, textOf(200), '`end` has the complete answer');
      t.equal(deltaText(reading), textOf(200), 'the deltas make the complete answer');
    }
  });

  t.test('a log in Redis that lost an entry: readers get `stream_lost` instead of a gap', async (t) => {
    const { redis, a, b, upstream } = await startReplicasWith(t, unfinishedAnswer(), { STREAM_FLUSH_MS: '0' });
    const local = await open(`${a.url}/ask/stream?question=q`);
    const { json } = await local.until('start');
    const call = await upstream.call(1);
    for (const delta of ['one ', 'two ', 'three ']) {
      call.response.write(text(delta));
      await until(() => deltaText(local).endsWith(delta), `the reader has ${delta}`);
    }
    const [log] = await redis.client.keys('*:log:*');
    const entries = await redis.client.xrange(log as string, '-', '+');
    await redis.client.xdel(log as string, (entries[2] as [string, string[]])[0]);
    const remote = await open(`${b.url}${json.url}`);
    t.equal((await remote.until('error')).json.code, 'stream_lost', 'the reader gets `stream_lost`');
    t.equal(deltaText(remote), 'one ', 'the reader gets the text before the lost entry');
    local.cut();
  });

  t.test('connections to Redis killed: they reconnect, and no answer is affected', async (t) => {
    const replicas = await startReplicasWith(t, answerOf(200));
    const { redis } = replicas;
    const { local, remote } = await startWithTwoReaders(replicas);
    const connections = async () =>
      String(await redis.client.client('LIST'))
        .trim()
        .split('\n').length;
    const connected = await connections();
    for (let i = 0; i < 3; i++) {
      await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      await redis.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      await until(async () => (await connections()) >= connected, 'both replicas have reconnected');
    }
    for (const reading of [local, remote]) {
      t.equal((await reading.until('end')).json.answer, textOf(200), '`end` has the complete answer');
      t.equal(deltaText(reading), textOf(200), 'the deltas make the complete answer');
    }
  });
}

t.test('faults of Redis', { skip: noRedis }, (t) => testFaults(t, startRedis));
t.test('faults of a node of a cluster', { skip: noRedis }, (t) => testFaults(t, startOneNodeCluster));
