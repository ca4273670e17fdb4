import t, { type Test } from 'tap';
import { bellaAt, serve, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { noRedis, type RedisServer, startRedis } from './redis.ts';
import { deltaText, open, type Reading } from './sse-client.ts';
import { DONE, numberedDeltas, STOP, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** Tests streams of a replica that lives, stops in order, or reads much, with a real Redis and another replica. */

const MODELS = `models:
  - { name: steady, targets: [{ provider: bella, model: gpt-4o }], onMidStreamFailure: continue }
  - { name: plain, targets: [{ provider: bella, model: gpt-4o }] }
`;

async function startReplicas(t: Test, redis: RedisServer, upstreamUrl: string, more: Record<string, string> = {}) {
  const env = bellaAt(upstreamUrl, { REDIS_URL: redis.url, ...more });
  const replicas = await Promise.all([serve(t, { env }), serve(t, { env })]);
  await until(() => replicas.every(({ app }) => app.cluster?.connection.isAvailable), 'both replicas share streams');
  return replicas as [(typeof replicas)[0], (typeof replicas)[0]];
}

/** Waits until a reader has exactly this text. */
const untilText = (reading: Reading, expected: string) =>
  until(() => deltaText(reading) === expected, `the reader has ${expected}`);

t.test('streams between replicas', { skip: noRedis }, async (t) => {
  t.jobs = 3;
  t.setTimeout(120_000); // Other tests of the suite may use the cores.

  t.test('a lease that is deleted once for each answer: every answer is complete for every reader', async (t) => {
    const redis = await startRedis(t);
    const upstream = await startUpstream(t, unfinishedAnswer('one '));
    const [a, b] = await startReplicas(t, redis, upstream.url);
    await until(() => (b.app.cluster?.lease.renewedForMs ?? 0) > 2_000, 'B looks at leases');
    const readings: Reading[] = [];
    for (let i = 0; i < 3; i++) {
      const local = await open(`${a.url}/ask/stream?question=q`);
      const { json } = await local.until('start');
      const remote = await open(`${b.url}${json.url}`);
      await Promise.all([local.until('delta'), remote.until('delta')]);
      readings.push(local, remote);
    }
    const lease = a.app.cluster?.leaseKey(a.app.cluster.replica) as string;
    for (let i = 0; i < 3; i++) {
      await redis.client.del(lease);
      await until(async () => (await redis.client.exists(lease)) === 1, 'the replica that lives has its lease again');
    }
    for (const { response } of upstream.calls) response.end(text('two') + STOP + DONE);
    for (const reading of readings) t.equal((await reading.until('end')).json.answer, 'one two');
    t.equal(await metricValue(b.app, 'sluice_takeovers_total'), 0);
  });

  for (const policy of ['volatile-ttl', 'allkeys-random', 'volatile-lru']) {
    t.test(`eviction by ${policy} under pressure: answers are complete for readers of their replica`, async (t) => {
      const redis = await startRedis(t, '--maxmemory-policy', policy);
      const upstream = await startUpstream(t, unfinishedAnswer());
      const [a, b] = await startReplicas(t, redis, upstream.url);
      const local = await open(`${a.url}/ask/stream?question=q`);
      const { json } = await local.until('start');
      const { response } = await upstream.call(1);
      response.write(text('begin '));
      const remote = await open(`${b.url}${json.url}`);
      await remote.until('delta');
      const { used_memory: used = '0' } = Object.fromEntries(
        (await redis.client.info('memory')).split('\r\n').map((line) => line.split(':')),
      );
      await redis.client.config('SET', 'maxmemory', String(Number(used) + 300_000));
      const parts = numberedDeltas(20);
      for (const [i, part] of parts.entries()) {
        response.write(text(part));
        const filler = redis.client.pipeline();
        for (let j = 0; j < 40; j++) filler.set(`filler:${i}:${j}`, 'x'.repeat(2_000), 'PX', 60_000);
        await filler.exec();
        await until(() => deltaText(local).endsWith(part), 'the local reader gets every part');
      }
      const stats = await redis.client.info('stats');
      const evicted = Number(/evicted_keys:(\d+)/.exec(stats)?.[1]);
      t.ok(evicted > 0, `${evicted} keys were evicted`);
      await redis.client.config('SET', 'maxmemory', '0');
      response.end(STOP + DONE);
      const answer = `begin ${parts.join('')}`;
      t.equal((await local.until('end')).json.answer, answer);
      t.equal(deltaText(local), answer);
      await remote.ended;
      const last = remote.events.at(-1)?.json;
      t.equal(last.answer, answer, `the remote reader: ${last.type} ${last.code}`);
      t.equal(await metricValue(b.app, 'sluice_takeovers_total'), 0, 'nobody takes over from a replica that lives');
      t.equal(upstream.calls.length, 1);
    });
  }

  t.test('many readers of large answers on another replica: all complete, and Redis stays available', async (t) => {
    const redis = await startRedis(t);
    const upstream = await startUpstream(t, unfinishedAnswer());
    const [a, b] = await startReplicas(t, redis, upstream.url, { MAX_EVENT_LOOP_DELAY_MS: '0' });
    const piece = 'x'.repeat(60_000);
    const urls: string[] = [];
    for (let i = 1; i <= 24; i++) {
      const reading = await open(`${a.url}/ask/stream?question=q`);
      const { json } = await reading.until('start');
      urls.push(json.url);
      const { response } = await upstream.call(i);
      for (let j = 0; j < 20; j++) response.write(text(piece));
      response.end(STOP + DONE);
      await reading.until('end');
    }
    const bystander = await open(`${b.url}/ask/stream?question=q`);
    t.equal((await bystander.until('start')).json.resumable, true);
    const remote = await Promise.all(urls.map((url) => open(b.url + url)));
    for (const reading of remote) {
      await reading.ended;
      t.equal(deltaText(reading).length, 1_200_000);
    }
    const resumable = bystander.events.filter(({ json }) => json.resumable === false);
    t.same(resumable, [], 'a stream that has nothing to do with it stays resumable');
    t.equal(await metricValue(b.app, 'sluice_redis_up'), 1);
    t.equal(await metricValue(b.app, 'sluice_redis_failures_total'), 0);
    t.equal(await metricValue(b.app, 'sluice_streams_unsynced_total'), 0);
    bystander.cut();
  });

  t.test('a replica that stops in order hands over what another one can continue, and nothing else', async (t) => {
    const redis = await startRedis(t);
    const upstream = await startUpstream(t, unfinishedAnswer('0你 1你 '));
    const more = { CONFIG_FILE: writeConfig(t, MODELS), DEFAULT_MODEL: 'steady' };
    const [a, b] = await startReplicas(t, redis, upstream.url, more);
    const local = await open(`${a.url}/ask/stream?question=q`);
    const remote = await open(`${b.url}${(await local.until('start')).json.url}`);
    await untilText(remote, '0你 1你 ');
    const plain = await open(`${a.url}/ask/stream?question=q&model=plain`);
    const plainRemote = await open(`${b.url}${(await plain.until('start')).json.url}`);
    await plainRemote.until('delta');
    const brief = await open(`${a.url}/ask/stream`, { body: { question: 'a client that cannot resume' } });
    await brief.until('delta');
    const id = (await remote.until('start')).json.stream;

    await a.app.lifecycle.drain();
    await until(
      async () => (await metricValue(b.app, 'sluice_takeovers_total', { outcome: 'continued' })) === 1,
      'B takes over',
    );
    t.equal(
      await redis.client.exists(a.app.cluster?.leaseKey(a.app.cluster.replica) as string),
      1,
      'before the lease ends',
    );
    const continued = await upstream.call(4);
    t.match(continued.body, '0你 1你 ', 'the text so far is part of the prompt');
    continued.response.end(text('2你') + STOP + DONE);
    t.match((await remote.until('end')).json, { answer: '0你 1你 0你 1你 2你' }, id);
    t.equal((await plainRemote.until('error')).json.code, 'stream_lost', 'another model ends as before');
    t.equal(upstream.calls.length, 4);
    await local.ended;
    t.notOk(
      local.events.some(({ json }) => ['end', 'error'].includes(json?.type)),
      'a reader of the old replica resumes on the other one',
    );
    t.equal((await brief.until('error')).json.code, 'stream_lost', 'a client that cannot resume gets the end');
    t.equal(await metricValue(b.app, 'sluice_takeovers_total', { outcome: 'lost' }), 0);
  });
});
