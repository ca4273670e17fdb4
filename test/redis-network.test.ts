import t, { type Test } from 'tap';
import { faultyNetwork } from './faulty-network.ts';
import { bellaAt, serve, until } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { noRedis, startRedis } from './redis.ts';
import { deltaText, open } from './sse-client.ts';
import { DONE, STOP, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** Networks that swallow the bytes of a connection to Redis without closing it, as a NAT that forgets it. */

t.test('a network that swallows bytes', { skip: noRedis }, async (t) => {
  t.jobs = 2;

  /** Replica A, whose network has faults, and replica B. */
  const setUp = async (t: Test) => {
    const redis = await startRedis(t);
    const upstream = await startUpstream(t, unfinishedAnswer('one '));
    const network = await faultyNetwork(t, redis.port);
    const start = (port: number) =>
      serve(t, { env: bellaAt(upstream.url, { REDIS_URL: `redis://127.0.0.1:${port}` }) });
    const [a, b] = await Promise.all([start(network.port), start(redis.port)]);
    const isUp = async () => (await metricValue(a.app, 'sluice_redis_up')) === 1;
    await until(isUp, 'A is connected to Redis');
    await until(() => network.connections('messages') === 1, 'A is subscribed');
    return { upstream, network, a, b, isUp };
  };

  t.test(
    'a stop on another replica takes effect although the subscribed connection of the producer is dead',
    async (t) => {
      const { upstream, network, a, b } = await setUp(t);
      const reading = await open(`${a.url}/ask/stream?question=q`);
      const { json } = await reading.until('start');
      await reading.until('delta');
      network.swallow('messages');
      t.equal((await fetch(`${b.url}${json.url}`, { method: 'DELETE' })).status, 204);
      t.match((await reading.until('end')).json, { finishReason: 'stopped', answer: 'one ' });
      await (await upstream.call(1)).closed;
    },
  );

  t.test('dead connections are replaced, and Redis is used again', async (t) => {
    const { network, upstream, a, b, isUp } = await setUp(t);
    const produced = await open(`${b.url}/ask/stream?question=q`);
    const copied = await open(`${a.url}${(await produced.until('start')).json.url}`);
    await copied.until('delta');
    network.swallow('commands', 'messages');
    await until(async () => !(await isUp()), 'Redis counts as unavailable');
    await until(isUp, 'Redis counts as available again');
    (await upstream.call(1)).response.end(text('two') + STOP + DONE);
    t.equal((await copied.until('end')).json.answer, 'one two', 'a reader on A gets the rest of a stream of B');
    t.equal(deltaText(copied), 'one two');

    const local = await open(`${a.url}/ask/stream?question=another`);
    const { json } = await local.until('start');
    await until(() => local.events.some((event) => event.json.resumable), 'a new stream of A is resumable');
    const remote = await open(`${b.url}${json.url}`);
    await remote.until('delta');
    t.equal((await fetch(`${b.url}${json.url}`, { method: 'DELETE' })).status, 204);
    for (const reading of [local, remote]) t.equal((await reading.until('end')).json.finishReason, 'stopped');
  });
});
