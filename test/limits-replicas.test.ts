import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { bearer, sha256, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { postJson } from './post-json.ts';
import { noRedis } from './redis.ts';
import { startReplicas } from './replicas.ts';
import { open } from './sse-client.ts';
import { DONE, STOP, unfinishedAnswer } from './upstream.ts';

/** Limits of an API key count over all replicas. */

const KEY = 'sk-test-key-of-a-web-page';
const headers = bearer(KEY);

/** Starts two replicas with one API key that has these limits. Their upstream never finishes an answer. */
async function startWithLimits(t: Test, limits: string) {
  const file = writeConfig(
    t,
    `keys: [{ name: web, sha256: "${sha256(KEY)}", ${limits} }]\nlimits: { expectedReplicas: 2 }\n`,
  );
  const replicas = await startReplicas(t, unfinishedAnswer('x'), { CONFIG_FILE: file, TICKET_SECRET: 'x'.repeat(32) });
  const ask = ({ url }: { url: string }) =>
    open(`${url}/ask/stream`, { body: { question: 'q', resumable: true }, headers });
  const isAccepted = async (replica: { url: string }) => {
    await sleep(100); // Limits the rate of questions while a test polls.
    return (await ask(replica)).response.statusCode === 200;
  };
  return { ...replicas, ask, isAccepted };
}

t.test('limits across replicas', { skip: noRedis }, async (t) => {
  t.jobs = 3;

  t.test('requestsPerMinute counts over all replicas; without Redis each grants its share', async (t) => {
    const { a, b, redis } = await startWithLimits(t, 'requestsPerMinute: 6');
    const statuses: number[] = [];
    const get = async ({ url }: { url: string }) => (await fetch(`${url}/v1/models`, { headers })).status;
    for (let i = 0; i < 8; i++) statuses.push(await get(i % 2 ? a : b));
    t.same(statuses, [200, 200, 200, 200, 200, 200, 429, 429], 'six requests are accepted');
    await redis.stop();
    const withoutRedis: number[] = [];
    for (let i = 0; i < 5; i++) withoutRedis.push(await get(a));
    t.same(withoutRedis, [200, 200, 200, 429, 429], 'half of six requests are accepted');
    t.ok((await metricValue(a.app, 'sluice_limiter_degraded_total')) >= 5, 'sluice_limiter_degraded_total');
  });

  t.test('maxConcurrent counts generations on all replicas, except on dead ones', async (t) => {
    const { a, b, ask, isAccepted, upstream } = await startWithLimits(t, 'maxConcurrent: 2');
    const [first, second] = [await ask(a), await ask(b)];
    t.equal((await ask(a)).response.statusCode, 429, 'a third generation on A is refused');
    t.equal((await ask(b)).response.statusCode, 429, 'a third generation on B is refused');
    (await upstream.call(1)).response.end(STOP + DONE);
    await first.until('end');
    await first.ended;
    const third = await ask(b);
    t.equal(third.response.statusCode, 200, 'after the end of a generation another one is accepted');
    t.equal((await ask(a)).response.statusCode, 429, 'but only one');
    // As after `kill -9`: B sends nothing more to Redis, and its lease expires.
    b.app.cluster?.connection.close();
    b.app.cluster?.mailbox.close();
    await until(() => isAccepted(a), 'the generations of B no longer count');
    second.cut();
    third.cut();
  });

  t.test('generations that end while Redis does not reply no longer count afterwards', async (t) => {
    const { a, b, ask, isAccepted, upstream, redis } = await startWithLimits(t, 'maxConcurrent: 2');
    const readings = [await ask(a), await ask(a)];
    await upstream.call(2);
    redis.child.kill('SIGSTOP');
    await until(() => [a, b].every(({ app }) => !app.cluster?.connection.isAvailable), 'Redis is unavailable');
    for (const { response } of upstream.calls) response.end(STOP + DONE);
    await Promise.all(readings.map((reading) => reading.until('end')));
    redis.child.kill('SIGCONT');
    await until(() => isAccepted(b), 'their slots are free');
  });

  t.test('tokensPerMinute counts the estimates of running generations on all replicas', async (t) => {
    const { a, b, ask } = await startWithLimits(t, 'tokensPerMinute: 2500');
    // A generation is estimated at 1,000 tokens.
    t.equal((await ask(a)).response.statusCode, 200, '1,000 of 2,500 tokens');
    t.equal((await ask(b)).response.statusCode, 200, '2,000 of 2,500 tokens');
    t.equal((await ask(a)).response.statusCode, 429, '3,000 tokens exceed the limit');
  });

  t.test('a ticket used on several replicas starts one stream', async (t) => {
    const { a, b, ask, isAccepted, upstream } = await startWithLimits(t, 'maxConcurrent: 5');
    const created = await postJson(`${a.url}/tickets`, {}, headers);
    const { ticket } = (await created.json()) as { ticket: string };
    const path = `/ask/stream?question=q&ticket=${ticket}`;
    const readings = await Promise.all([a, b, a, b].map(({ url }) => open(url + path)));
    const ids = await Promise.all(readings.map(async (reading) => (await reading.until('start')).json.stream));
    t.equal(new Set(ids).size, 1, 'every use reads the same stream');
    await upstream.call(1);
    t.equal(upstream.calls.length, 1, 'the upstream is called once');
    t.equal((await open(`${b.url}${path}2`)).response.statusCode, 401, 'the ticket is not valid for another question');
    for (let slot = 2; slot <= 5; slot++)
      await until(() => isAccepted(a), `the stream uses one slot; slot ${slot} is free`, 10_000);
    t.equal((await ask(a)).response.statusCode, 429, 'the limit is reached');
    for (const reading of readings) reading.cut();
  });
});
