import { readFileSync } from 'node:fs';
import t from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import { until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { noRedis, persistentRedis } from '../redis.ts';
import { refusal } from './bare-limits.ts';
import { startReplicas } from './replicas.ts';

/** Limits of two replicas that share a Redis, without the rest of the service. */

const scriptOf = (name: string) =>
  readFileSync(new URL(`../../plugins/limits/scripts/${name}.lua`, import.meta.url), 'utf8');

/** Settles without a charge. */
const free = (reservation: { settle(usage: { totalTokens: number }, characters: number): void }) =>
  reservation.settle({ totalTokens: 0 }, 0);

t.test('limits of two replicas', { skip: noRedis }, async (t) => {
  t.jobs = 4;

  t.test('maxConcurrent counts on both replicas, and every release is seen by the other', async (t) => {
    const { a, b, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', maxConcurrent: 3 };
    const first = await a.reserve(owner);
    const second = await b.reserve(owner);
    await b.reserve(owner);
    for (let i = 0; i < 3; i++) {
      t.equal(await a.fits(owner), false, 'a fourth generation on A is refused');
      t.equal(await b.fits(owner), false, 'a fourth generation on B is refused');
    }
    t.equal(await a.fits({ ...owner, owner: 'other' }), true, 'another owner is not affected');
    free(second);
    await settled();
    const third = await a.reserve(owner);
    t.equal(await b.fits(owner), false, 'after the end of one generation, one more is accepted and not two');
    free(first);
    free(third);
    await settled();
    await b.reserve(owner);
    await b.reserve(owner);
    t.equal(await a.fits(owner), false, 'B has all three');
  });

  t.test('a refusal for tokens frees the slot on every replica, and takes no tokens', async (t) => {
    const { a, b, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', maxConcurrent: 2, tokensPerMinute: 1_000 };
    const running = await a.reserve(owner, 800);
    for (const { reserve } of [a, b, a, b]) {
      t.match(await refusal(reserve(owner, 201)), { message: /tokens/ }, '201 of 200 tokens');
      await settled();
    }
    const second = await b.reserve(owner, 200);
    t.match(await refusal(a.reserve(owner, 1)), { message: /answers are running/ }, 'both slots are in use');
    free(second);
    await settled();
    t.equal(await a.fits(owner, 200), true, 'the slot and the tokens are free for A');
    free(running);
  });

  t.test('used tokens are charged instead of the estimate, on every replica', async (t) => {
    const { a, b, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
    const cheap = await a.reserve(owner, 500);
    const expensive = await b.reserve(owner, 100);
    t.equal(await b.fits(owner, 401), false, 'the estimate of A counts on B');
    cheap.settle({ totalTokens: 100 }, 0);
    await settled();
    t.equal(await b.fits(owner, 800), true, 'what A gives back is free on B');
    t.equal(await b.fits(owner, 801), false, 'exactly');
    expensive.settle({ totalTokens: 350 }, 0);
    await settled();
    t.equal(await a.fits(owner, 550), true, 'what B charges is missing on A');
    t.equal(await a.fits(owner, 551), false, 'exactly');
    t.match(await refusal(a.reserve(owner, 600)), { retryAfterMs: Number }, 'Retry-After');
    const large = await a.reserve({ owner: 'b', tokensPerMinute: 500 }, 5_000);
    t.equal(await b.fits({ owner: 'b', tokensPerMinute: 500 }, 1), false, 'a large question takes the whole minute');
    free(large);
    await settled();
    t.equal(await b.fits({ owner: 'b', tokensPerMinute: 500 }, 500), true, 'and gives all of it back');
  });

  t.test('use beyond the limit is carried over on every replica', async (t) => {
    const { redis, a, b, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
    const retryAfterMs = async (tokens = 1) =>
      ((await refusal(b.reserve(owner, tokens))) as { retryAfterMs: number }).retryAfterMs;
    (await a.reserve(owner, 100)).settle({ totalTokens: 2_500 }, 0);
    await settled();
    // The minute began with the first charge, a moment ago.
    t.equal(Math.ceil((await retryAfterMs()) / 60_000), 2);
    t.equal(Math.ceil((await retryAfterMs(501)) / 60_000), 3);
    t.equal(Math.ceil((await redis.client.pttl('p:limit:tokens:a')) / 60_000), 3, 'kept until it is paid off');

    const now = async () => {
      const [seconds, micros] = await redis.client.time();
      return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
    };
    await redis.client.hset('p:limit:tokens:a', 'ends', (await now()) - 60_000);
    t.equal(await b.fits(owner, 500), true, 'two minutes later');
    t.equal(await a.fits(owner, 501), false, 'exactly');
    await redis.client.hset('p:limit:tokens:a', 'ends', (await now()) - 60_000);
    t.equal(await b.fits(owner, 1_000), true, 'everything is paid off, and nothing is saved up');
    t.equal(await b.fits(owner, 1_000), true);
    await a.reserve(owner, 1_000);
    await redis.client.hset('p:limit:tokens:a', 'ends', (await now()) + 3_600_000);
    t.ok((await retryAfterMs()) <= 60_000, 'a clock that was set back prolongs no minute');
    t.ok(Number(await redis.client.hget('p:limit:tokens:a', 'ends')) <= (await now()) + 60_000);
  });

  t.test('requestsPerMinute counts on both replicas', async (t) => {
    const { a, b } = await startReplicas(t);
    const owner: Identity = { owner: 'a', requestsPerMinute: 3, tokensPerMinute: 3 };
    await a.reserve(owner, 3);
    const left = [];
    for (const { request } of [a, b, a]) left.push((await request(owner)).headers['ratelimit-remaining']);
    t.same(left, ['2', '1', '0'], 'ratelimit-remaining');
    t.equal((await b.request(owner)).status, 429, 'a fourth request');
  });

  t.test('generations of a replica without a lease do not count', async (t) => {
    const { redis, a, b } = await startReplicas(t);
    const owner: Identity = { owner: 'a', maxConcurrent: 2 };
    await a.reserve(owner);
    await b.reserve(owner);
    t.equal(await a.fits(owner), false, 'the generation of B counts');
    // As after `kill -9`: B renews its lease no more.
    const { cluster } = b.app;
    cluster?.connection.close();
    await redis.client.del(cluster?.leaseKey(cluster.replica) as string);
    await a.reserve(owner);
    t.equal(await a.fits(owner), false, 'A has both slots');
    t.same(
      await redis.client.hgetall('p:running:a'),
      { [a.app.cluster?.replica as string]: '2' },
      'the count of B is removed from Redis',
    );
  });

  t.test('everything in Redis expires, and nothing is left of an owner without generations', async (t) => {
    const { redis, a, b, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', maxConcurrent: 2, tokensPerMinute: 100, requestsPerMinute: 5 };
    const reservations = [await a.reserve(owner, 10), await b.reserve(owner, 10)];
    await a.request(owner);
    const keys = (await redis.client.keys('p:*')).filter((key) => !key.startsWith('p:{replica}:'));
    t.equal(keys.length, 3, 'a key for each limit');
    for (const key of keys) t.not(await redis.client.pttl(key), -1, `${key.replace(/:.*:/, ' ')} expires`);
    const [minute] = keys.filter((key) => key.includes('tokens'));
    t.ok((await redis.client.pttl(minute as string)) <= 60_000, 'tokens are counted for a minute');
    for (const reservation of reservations) free(reservation);
    await settled();
    t.equal(await redis.client.exists('p:running:a'), 0, 'no count of generations is left');
  });

  t.test('without Redis each replica grants its share, and counts it', async (t) => {
    const { redis, a, b, isAvailable } = await startReplicas(t);
    const owner: Identity = { owner: 'a', maxConcurrent: 5, tokensPerMinute: 500, requestsPerMinute: 5 };
    const before = await b.reserve(owner, 100);
    await redis.stop();
    await until(() => !isAvailable(a) && !isAvailable(b), 'Redis is unavailable');
    const degraded = () => metricValue(a.app, 'sluice_limiter_degraded_total');
    t.equal(await degraded(), 0, 'no degraded decision yet');
    const reservations = [];
    for (let i = 0; i < 3; i++) reservations.push(await a.reserve({ owner: 'a', maxConcurrent: 5 }));
    t.equal(await degraded(), 3, 'each decision is counted');
    t.equal(await a.fits({ owner: 'a', maxConcurrent: 5 }), false, 'three of five generations');
    t.equal(await a.fits({ owner: 't', tokensPerMinute: 500 }, 250), true, 'half of the tokens');
    t.equal(await a.fits({ owner: 't', tokensPerMinute: 500 }, 251), false, 'and not more');
    const statuses = [];
    for (let i = 0; i < 4; i++) statuses.push((await a.request(owner)).status);
    t.same(statuses, [200, 200, 200, 429], 'half of the requests, rounded up');

    await redis.start();
    await until(() => isAvailable(a) && isAvailable(b), 'Redis is available again');
    t.equal(await a.fits({ owner: 'a', maxConcurrent: 5 }), true, 'the whole limit applies again');
    for (const reservation of reservations) free(reservation);
    free(before);
    await until(async () => (await redis.client.exists('p:running:a')) === 0, 'no generation is counted');
  });

  t.test('a replica grants its share while Redis is out of memory', async (t) => {
    const { redis, a, b } = await startReplicas(t);
    await redis.client.config('SET', 'maxmemory', 1);
    const owner: Identity = { owner: 'a', tokensPerMinute: 500 };
    t.equal(await a.fits(owner, 250), true, 'half of the tokens');
    t.equal(await a.fits(owner, 251), false, 'and not more');
    t.equal(await metricValue(a.app, 'sluice_limiter_degraded_total'), 2, 'each decision is counted');
    t.equal((await a.request({ owner: 'a', requestsPerMinute: 2 })).headers['ratelimit-remaining'], '0');
    await a.reserve({ owner: 'b', maxConcurrent: 2 });
    t.equal(await a.fits({ owner: 'b', maxConcurrent: 2 }), false, 'half of the slots');
    await a.reserve({ owner: 'c', maxConcurrent: 2 });
    await redis.client.config('SET', 'maxmemory', 0);
    const isTaken = async () => !(await b.fits({ owner: 'c', maxConcurrent: 1 }));
    await until(isTaken, 'the slot that was granted alone counts on the other replica');
  });

  t.test('tokens that Redis was charged with are not given back to the share of a replica', async (t) => {
    const { redis, a, isAvailable } = await startReplicas(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 500 };
    const cheap = await a.reserve(owner, 200);
    const expensive = await a.reserve(owner, 100);
    await redis.stop();
    await until(() => !isAvailable(a), 'Redis is unavailable');
    cheap.settle({ totalTokens: 0 }, 0);
    t.equal(await a.fits(owner, 250), true, 'the share of A');
    t.equal(await a.fits(owner, 251), false, 'and not more');
    expensive.settle({ totalTokens: 150 }, 0);
    t.equal(await a.fits(owner, 200), true, 'what an answer used beyond its estimate is charged to the share');
    t.equal(await a.fits(owner, 201), false, 'exactly');
  });

  t.test('tokens of the share of a replica are not given back to Redis', async (t) => {
    const { redis, a, b, isAvailable, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 500 };
    await redis.stop();
    await until(() => !isAvailable(a), 'Redis is unavailable');
    const reservation = await a.reserve(owner, 200);
    await redis.start();
    await until(() => isAvailable(a) && isAvailable(b), 'Redis is available again');
    free(reservation);
    await settled();
    await b.reserve(owner, 500);
    t.equal(await a.fits(owner, 1), false, 'Redis grants the limit once');
  });

  t.test('a question that is refused because Redis replies too late does not count afterwards', async (t) => {
    const { redis, a, b, settled } = await startReplicas(t, { expectedReplicas: 4 });
    const owner: Identity = { owner: 'a', maxConcurrent: 4 };
    await a.reserve(owner);
    // Longer than a replica waits for a reply: Redis runs the command after the replica has given up.
    await redis.client.call('CLIENT', 'PAUSE', 400, 'ALL');
    t.match(await refusal(a.reserve(owner)), { statusCode: 429 }, 'A may grant a quarter alone, which is in use');
    await redis.client.ping();
    await settled();
    for (let i = 0; i < 3; i++) await b.reserve(owner);
    t.equal(await b.fits(owner), false, 'B can use the other three slots and not more');
  });

  t.test('a generation that ends while Redis is unavailable no longer counts afterwards', async (t) => {
    const { redis, a, b, isAvailable } = await startReplicas(t);
    const owner: Identity = { owner: 'a', maxConcurrent: 2 };
    const running = [await a.reserve(owner), await a.reserve(owner)];
    const counted = () => redis.client.hget('p:running:a', a.app.cluster?.replica as string);
    t.equal(await counted(), '2', 'Redis has the count of A');
    await redis.client.config('SET', 'maxclients', 1);
    await redis.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await until(() => !isAvailable(a) && !isAvailable(b), 'Redis accepts no connection of the replicas');
    for (const reservation of running) free(reservation);
    t.equal(await counted(), '2', 'Redis does not know of the ends');
    await redis.client.config('SET', 'maxclients', 100);
    await until(() => isAvailable(a) && isAvailable(b), 'the replicas are connected again');
    await until(async () => (await counted()) === null, 'A has told Redis');
    await b.reserve(owner);
    await b.reserve(owner);
    t.equal(await b.fits(owner), false, 'B can use both slots and not more');
  });

  t.test('what answers used while Redis was unavailable is charged when it is back, exactly once', async (t) => {
    const { a, b, stopRedis, startRedisAgain, used } = await startReplicas(t, { redisArgs: persistentRedis(t) });
    const owner: Identity = { owner: 'a', tokensPerMinute: 10_000 };
    const cheap = await a.reserve(owner, 500);
    const expensive = await b.reserve(owner, 300);
    const estimated = await b.reserve(owner, 200);
    const running = await a.reserve(owner, 1_000);
    const other: Identity = { owner: 'b', tokensPerMinute: 100 };
    free(await a.reserve(other, 50));
    await stopRedis();
    cheap.settle({ totalTokens: 100 }, 0);
    expensive.settle({ totalTokens: 900 }, 0);
    estimated.settle(undefined, 0);
    await a.reserve(other, 10); // From the share of A.
    for (let i = 0; i < 2; i++) {
      await startRedisAgain();
      t.equal(await used('a'), 2_200, '100, 900 and 200 tokens, and the estimate that runs');
      await stopRedis();
    }
    await startRedisAgain();
    running.settle({ totalTokens: 0 }, 0);
    await until(async () => (await used('a')) === 1_200, 'its estimate is given back');
    t.equal(await used('b'), 0, 'what a replica has charged to its share is not charged again');
  });

  t.test('the end of a generation whose reply is late or lost counts once', async (t) => {
    const { redis, a, b, isAvailable, used, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 10_000 };
    const [cheap, expensive] = [await a.reserve(owner, 500), await b.reserve(owner, 300)];
    // Redis runs the scripts after the replicas have given up waiting for their replies.
    await redis.client.call('CLIENT', 'PAUSE', 60_000, 'WRITE');
    cheap.settle({ totalTokens: 100 }, 0);
    expensive.settle({ totalTokens: 900 }, 0);
    const late = await a.reserve(owner, 40);
    await until(() => !isAvailable(a) && !isAvailable(b), 'both replicas have given up');
    await redis.client.call('CLIENT', 'UNPAUSE');
    await until(() => isAvailable(a) && isAvailable(b), 'Redis is available');
    await until(async () => (await used('a')) === 1_000, 'the late charge is taken back');
    late.settle({ totalTokens: 70 }, 0);
    for (let i = 0; i < 2; i++) {
      await new Promise<void>((done) => a.app.cluster?.lease.onRenewed(done));
      await settled();
      t.equal(await used('a'), 1_000, 'nothing is charged twice');
    }
  });

  t.test('a charge that Redis gets after its end is not charged', async (t) => {
    const { redis, a, used } = await startReplicas(t);
    const run = (name: string, ...args: (string | number)[]) =>
      redis.client.eval(scriptOf(name), 1, 'p:limit:tokens:a', ...args);
    await a.reserve({ owner: 'a', tokensPerMinute: 1_000 }, 100);
    await run('settle-tokens', 1_000, 'r:1', 300, 0, 1, 60_000);
    t.same(
      await run('charge-tokens', 1_000, 'r:1', 300, 60_000),
      [0, 60_000],
      'its replica does not wait for it any more',
    );
    await run('settle-tokens', 1_000, 'r:2', 300, 900, 1, 60_000);
    await run('settle-tokens', 1_000, 'r:2', 300, 900, 0, 60_000);
    t.equal(await used('a'), 100);
  });

  t.test('what the minutes have paid off is not given back', async (t) => {
    const { redis, a, b, settled, used } = await startReplicas(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 1_000 };
    const endMinute = () => redis.client.hset('p:limit:tokens:a', 'ends', 1);
    const [first, second] = [await a.reserve(owner, 500), await b.reserve(owner, 400)];
    await endMinute();
    await b.reserve(owner, 300);
    first.settle({ totalTokens: 0 }, 0);
    await settled();
    t.equal(await used('a'), 300, 'a charge has begun a new minute');
    const third = await a.reserve(owner, 200);
    await endMinute();
    second.settle({ totalTokens: 600 }, 0);
    await settled();
    third.settle({ totalTokens: 0 }, 0);
    await settled();
    t.equal(await used('a'), 200, 'an end has begun a new minute');
    const late = await b.reserve({ ...owner, owner: 'b' }, 1);
    await settled();
    await redis.client.hset('p:limit:tokens:b', { ends: 1, used: 1e12 });
    late.settle({ totalTokens: 1 }, 0);
    await settled();
    t.ok((await used('b')) > 1, 'each minute pays off the limit, and not everything');
  });

  t.test('after Redis has lost its data, answers add what exceeds their estimate, and give nothing back', async (t) => {
    const { a, b, stopRedis, startRedisAgain, used } = await startReplicas(t);
    const owner: Identity = { owner: 'a', tokensPerMinute: 10_000, maxConcurrent: 5 };
    const [cheap, expensive, early] = [
      await a.reserve(owner, 500),
      await b.reserve(owner, 300),
      await a.reserve(owner, 100),
    ];
    await stopRedis();
    early.settle({ totalTokens: 150 }, 0);
    await startRedisAgain();
    t.equal(await used('a'), 50, 'an answer that ended while Redis was unavailable');
    const after = await b.reserve(owner, 400);
    cheap.settle({ totalTokens: 0 }, 0);
    expensive.settle({ totalTokens: 1_300 }, 0);
    await until(async () => (await used('a')) === 1_450, 'the excess of 1,000 and the new estimate');
    after.settle({ totalTokens: 0 }, 0);
    await until(async () => (await used('a')) === 1_050, 'which is given back');
  });

  t.test('after Redis has lost its data, generations that run still count on every replica', async (t) => {
    const { a, b, redis, stopRedis, startRedisAgain, settled } = await startReplicas(t);
    const owner: Identity = { owner: 'a', maxConcurrent: 4 };
    const before = [await a.reserve(owner), await a.reserve(owner)];
    await stopRedis();
    const during = await b.reserve(owner);
    await startRedisAgain();
    await b.reserve(owner);
    t.equal(await b.fits(owner), false, 'two of A, two of B');
    await redis.client.flushall();
    await new Promise<void>((done) => a.app.cluster?.lease.onMissing(done));
    await new Promise<void>((done) => b.app.cluster?.lease.onRenewed(done));
    await settled();
    t.equal(await b.fits(owner), false, 'also after it was emptied without an outage');
    t.ok((await redis.client.pttl('p:running:a')) > 0, 'the counts expire');
    for (const reservation of [...before, during]) free(reservation);
    await settled();
    t.equal(await a.fits(owner), true);
  });
});
