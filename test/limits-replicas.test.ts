import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { until } from './helper.ts';
import { noRedis } from './redis.ts';
import { metric, startReplicas } from './replicas.ts';
import { open } from './sse-client.ts';
import { DONE, STOP, unfinishedAnswer } from './upstream.ts';

/** What one key may use, on all replicas together. */

const KEY = 'sk-test-key-of-a-web-page';
const authorization = `Bearer ${KEY}`;

async function withKey(t: Test, limits: string) {
  const file = join(t.testdir(), 'sluice.yaml');
  const sha256 = createHash('sha256').update(KEY).digest('hex');
  writeFileSync(file, `keys: [{ name: web, sha256: "${sha256}", ${limits} }]\nlimits: { expectedReplicas: 2 }\n`);
  const replicas = await startReplicas(t, unfinishedAnswer('x'), { CONFIG_FILE: file, TICKET_SECRET: 'x'.repeat(32) });
  const ask = ({ url }: { url: string }) =>
    open(`${url}/ask/stream`, { body: { question: 'q', resumable: true }, headers: { authorization } });
  const isAccepted = async (replica: { url: string }) => {
    await sleep(100);
    return (await ask(replica)).response.statusCode === 200;
  };
  return { ...replicas, ask, isAccepted };
}

t.test('limits across replicas', { skip: noRedis }, async (t) => {
  t.jobs = 3;

  t.test('requests', async (t) => {
    const { a, b, redis } = await withKey(t, 'requestsPerMinute: 6');
    const statuses: number[] = [];
    const get = async ({ url }: { url: string }) =>
      (await fetch(`${url}/v1/models`, { headers: { authorization } })).status;
    for (let i = 0; i < 8; i++) statuses.push(await get(i % 2 ? a : b));
    t.same(statuses, [200, 200, 200, 200, 200, 200, 429, 429]);
    await redis.stop();
    const alone: number[] = [];
    for (let i = 0; i < 5; i++) alone.push(await get(a));
    t.same(alone, [200, 200, 200, 429, 429], 'while Redis is away each grants its part');
    t.ok((await metric(a.app, 'sluice_limiter_degraded_total')) >= 5);
  });

  t.test('answers at once, also of a replica that has died', async (t) => {
    const { a, b, ask, isAccepted, upstream } = await withKey(t, 'maxConcurrent: 2');
    const [first, second] = [await ask(a), await ask(b)];
    t.equal((await ask(a)).response.statusCode, 429);
    t.equal((await ask(b)).response.statusCode, 429);
    (await upstream.call(1)).response.end(STOP + DONE);
    await first.until('end');
    await first.ended;
    const third = await ask(b);
    t.equal(third.response.statusCode, 200, 'one has ended');
    t.equal((await ask(a)).response.statusCode, 429);
    // As after a `kill -9`: it says nothing any more, and its lease runs out.
    b.app.cluster?.connection.close();
    b.app.cluster?.mailbox.close();
    await until(() => isAccepted(a), 'its places are free');
    second.cut();
    third.cut();
  });

  t.test('answers that end while Redis is away give their places back', async (t) => {
    const { a, b, ask, isAccepted, upstream, redis } = await withKey(t, 'maxConcurrent: 2');
    const readings = [await ask(a), await ask(a)];
    await upstream.call(2);
    redis.child.kill('SIGSTOP');
    await sleep(2_000); // Both replicas notice within this time that Redis is unavailable.
    for (const { response } of upstream.calls) response.end(STOP + DONE);
    await Promise.all(readings.map((one) => one.until('end')));
    redis.child.kill('SIGCONT');
    await until(() => isAccepted(b), 'their places are free');
  });

  t.test('tokens', async (t) => {
    const { a, b, ask } = await withKey(t, 'tokensPerMinute: 2500');
    t.equal((await ask(a)).response.statusCode, 200);
    t.equal((await ask(b)).response.statusCode, 200);
    t.equal((await ask(a)).response.statusCode, 429, 'each is taken for a thousand');
  });

  t.test('a ticket starts one stream, wherever it is shown', async (t) => {
    const { a, b, upstream } = await withKey(t, 'maxConcurrent: 5');
    const minted = await fetch(`${a.url}/tickets`, {
      method: 'POST',
      headers: { authorization, 'content-type': 'application/json' },
      body: '{}',
    });
    const { ticket } = (await minted.json()) as { ticket: string };
    const path = `/ask/stream?question=q&ticket=${ticket}`;
    const readings = await Promise.all([a, b, a, b].map(({ url }) => open(url + path)));
    const ids = await Promise.all(readings.map(async (one) => (await one.until('start')).json.stream));
    t.equal(new Set(ids).size, 1);
    await upstream.call(1);
    t.equal(upstream.calls.length, 1);
    t.equal((await open(`${b.url}${path}2`)).response.statusCode, 401, 'and no other question');
    for (const one of readings) one.cut();
  });
});
