import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { bellaAt, serve, until } from './helper.ts';
import { noRedis, startRedis } from './redis.ts';
import { metric, type Replicas, startReplicas } from './replicas.ts';
import { deltaText, open, type Reading, readAll } from './sse-client.ts';
import { completeAnswer, DONE, STOP, sse, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** What happens to Redis, done to a real one; what readers and operators see of it. */

const deltas = (count: number) => Array.from({ length: count }, (_, i) => `${i} `);

/** Plays a number every 20 ms. */
const counting =
  (count: number) =>
  async ({ response }: { response: import('node:http').ServerResponse }) => {
    sse(response);
    for (const delta of deltas(count)) {
      response.write(text(delta));
      await sleep(20);
    }
    response.end(STOP + DONE);
  };

const statuses = ({ events }: Reading) =>
  events.filter(({ json }) => json?.type === 'status').map(({ json }) => json.resumable);

/** A stream that counts at A, with a reader there and one at B. */
async function counted({ a, b }: Replicas): Promise<{ here: Reading; there: Reading }> {
  const here = await open(`${a.url}/ask/stream?question=q`);
  const { json } = await here.until('start');
  await here.until('delta');
  const there = await open(`${b.url}${json.url}`);
  await there.until('delta');
  return { here, there };
}

t.test('what happens to Redis', { skip: noRedis }, async (t) => {
  t.jobs = 3;

  t.test('down at the start: it starts all the same, and is whole when Redis comes', async (t) => {
    const upstream = await startUpstream(t, completeAnswer('x'));
    const redis = await startRedis(t);
    await redis.stop();
    const env = bellaAt(upstream.url, { REDIS_URL: redis.url });
    const { app, url } = await serve(t, { env });
    const reading = await readAll(`${url}/ask/stream?question=q`);
    t.match(reading.events[0]?.json, { type: 'start', resumable: false });
    t.equal(reading.events.at(-1)?.json.answer, 'x');
    t.equal((await fetch(`${url}/readyz`)).status, 200);
    t.equal(await metric(app, 'sluice_redis_up'), 0);
    const strict = await serve(t, { env: { ...env, REDIS_REQUIRED: 'true' } });
    t.equal((await fetch(`${strict.url}/readyz`)).status, 503, 'not ready, where the configuration says so');
    await redis.start();
    await until(
      () => app.cluster?.connection.isAvailable === true && strict.app.cluster?.connection.isAvailable === true,
      'Redis is found',
    );
    t.match((await readAll(`${url}/ask/stream?question=q`)).events[0]?.json, { type: 'start', resumable: true });
    t.equal((await fetch(`${strict.url}/readyz`)).status, 200);
  });

  t.test('down in the middle: the stream is unharmed and says so; back: all is whole again', async (t) => {
    const replicas = await startReplicas(t, counting(300));
    const { redis, a, b, upstream } = replicas;
    const { here, there } = await counted(replicas);
    await redis.stop();
    const seen = here.events.length;
    await until(() => statuses(here).includes(false), 'readers are told');
    await until(() => here.events.length > seen + 20, 'deltas go on');
    const alone = await open(`${a.url}/ask/stream?question=q2`);
    t.equal((await alone.until('start')).json.resumable, false, 'new streams are of this replica alone');
    const lost = await open(`${b.url}/ask/stream?question=q`, { headers: { 'last-event-id': here.events.at(-1)?.id } });
    await lost.ended;
    t.same([lost.response.statusCode, lost.events], [200, []], 'a resume elsewhere is told to come back');
    t.ok(lost.retry);
    await redis.start();
    const back = performance.now();
    await until(() => statuses(here).includes(true), 'it can be resumed again');
    t.comment(`whole ${Math.round(performance.now() - back)} ms after Redis was back`);
    const fresh = await open(`${b.url}/ask/stream?question=q3`);
    await until(() => statuses(fresh).includes(true) || fresh.events[0]?.json.resumable, 'and so can new ones');
    for (const one of [here, there]) {
      const { json } = await one.until('end');
      t.equal(json.answer, deltas(300).join(''));
      t.equal(deltaText(one), json.answer, 'byte for byte, with Redis emptied in between');
    }
    t.equal(upstream.calls.length, 3);
    t.ok((await metric(a.app, 'sluice_streams_unsynced_total')) >= 1);
    alone.cut();
    fresh.cut();
  });

  t.test('stopped: the answer goes on without it, and readers are told once', async (t) => {
    const replicas = await startReplicas(t, counting(300));
    const { redis, a } = replicas;
    const { here, there } = await counted(replicas);
    redis.child.kill('SIGSTOP');
    await until(() => statuses(here).includes(false), 'readers are told');
    const before = here.events.length;
    await until(() => here.events.length > before + 20, 'deltas go on while Redis is stopped');
    redis.child.kill('SIGCONT');
    t.ok((await metric(a.app, 'sluice_redis_failures_total', 'timeout')) >= 1);
    for (const one of [here, there]) {
      await one.until('end');
      t.equal(deltaText(one), deltas(300).join(''));
    }
    t.same(statuses(here), [false, true]);
  });

  t.test('out of memory: as if it were down for writing, and reading goes on', async (t) => {
    const replicas = await startReplicas(t, counting(500));
    const { redis, a, b } = replicas;
    const { here, there } = await counted(replicas);
    const done = await open(`${a.url}/ask/stream?question=short`);
    await done.until('delta');
    await fetch(`${a.url}${done.events[0]?.json.url}`, { method: 'DELETE' });
    await done.ended;
    await redis.client.config('SET', 'maxmemory', '1');
    await until(() => statuses(here).includes(false), 'readers are told');
    const old = await readAll(`${b.url}${done.events[0]?.json.url}`);
    t.equal(old.events.at(-1)?.json.answer, deltaText(done), 'what is kept can be read');
    const leases = () => redis.client.keys('*replica*');
    await until(
      async () => (await leases()).length === 0,
      'the leases have expired, as no replica could renew its own',
    );
    t.ok((await metric(a.app, 'sluice_redis_failures_total', 'oom')) >= 1);
    await redis.client.config('SET', 'maxmemory', '0');
    for (const one of [here, there]) {
      t.equal((await one.until('end')).json.answer, deltas(500).join(''));
      t.equal(deltaText(one), deltas(500).join(''));
    }
    t.same(statuses(here), [false, true]);
  });

  t.test('a stream that ends while Redis is away: readers elsewhere get its end when Redis is back', async (t) => {
    const replicas = await startReplicas(t, counting(100));
    const { redis } = replicas;
    const { here, there } = await counted(replicas);
    redis.child.kill('SIGSTOP');
    await here.until('end');
    await sleep(4_000); // The producer has not heard of them for long.
    redis.child.kill('SIGCONT');
    await there.until('end');
    t.equal(deltaText(there), deltas(100).join(''));
  });

  t.test('emptied: what runs is written anew, what has ended is unknown, nobody waits in silence', async (t) => {
    const replicas = await startReplicas(t, counting(200));
    const { redis, a, b } = replicas;
    const done = await readAll(`${a.url}/ask/stream?question=short`);
    const { here, there } = await counted(replicas);
    await redis.client.flushall();
    const unknown = await readAll(`${b.url}/ask/stream?question=q`, {
      headers: { 'last-event-id': done.events[1]?.id },
    });
    t.equal(unknown.events[0]?.json.code, 'stream_unknown');
    for (const one of [here, there]) {
      t.equal((await one.until('end')).json.answer, deltas(200).join(''));
      t.equal(deltaText(one), deltas(200).join(''));
    }
  });

  t.test('without its newest entries, as after a failover: an error, never a gap', async (t) => {
    const { redis, a, b, upstream } = await startReplicas(t, unfinishedAnswer(), { STREAM_FLUSH_MS: '0' });
    const here = await open(`${a.url}/ask/stream?question=q`);
    const { json } = await here.until('start');
    const call = await upstream.call(1);
    for (const delta of ['one ', 'two ', 'three ']) {
      call.response.write(text(delta));
      await until(() => deltaText(here).endsWith(delta), `${delta} is there`);
    }
    const [log] = await redis.client.keys('*:log:*');
    const entries = await redis.client.xrange(log as string, '-', '+');
    await redis.client.xdel(log as string, (entries[2] as [string, string[]])[0]);
    const there = await open(`${b.url}${json.url}`);
    t.equal((await there.until('error')).json.code, 'stream_lost');
    t.equal(deltaText(there), 'one ');
    here.cut();
  });

  t.test('connections killed: everything comes back by itself', async (t) => {
    const replicas = await startReplicas(t, counting(200));
    const { redis } = replicas;
    const { here, there } = await counted(replicas);
    for (let i = 0; i < 3; i++) {
      await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      await redis.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      await sleep(300);
    }
    for (const one of [here, there]) {
      t.equal((await one.until('end')).json.answer, deltas(200).join(''));
      t.equal(deltaText(one), deltas(200).join(''));
    }
  });
});
