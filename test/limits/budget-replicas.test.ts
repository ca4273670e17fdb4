import t, { type Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import type { Reservation } from '../../plugins/limits/reservation.ts';
import { until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { noRedis, persistentRedis } from '../redis.ts';
import { type bareLimits, refusal } from './bare-limits.ts';
import { startReplicas } from './replicas.ts';

/** Budgets of two replicas with one Redis. A token costs a millionth of a USD, which is 1,000 billionths. */

let number = 0;
/** Returns a new owner whose budget has this many tokens. */
const ownerOf = (tokens: number): Identity => ({
  owner: `key:o${number++}`,
  budget: { period: 'day', amount: tokens / 1e6 },
});
const end = ({ settle }: Reservation, tokens: number) => settle({ totalTokens: tokens }, 0, () => tokens / 1e6);
const adopt = ({ app }: Awaited<ReturnType<typeof bareLimits>>, { estimate, charges }: Reservation) =>
  app.limits.adoptReservation({ estimate, charges }, [{ input: 1, output: 1 }]);

t.test('with Redis', { skip: noRedis, timeout: 120_000 }, async (t) => {
  const { redis, a, b, settled, cost } = await startReplicas(t);
  const tokens = async ({ owner }: Identity) => (await cost(owner)) / 1_000;
  const keyOf = ({ owner }: Identity) => `p:limit:budget:${new Date().toISOString().slice(0, 10)}:${owner}`;
  const SUMS = ['ended', 'restored', 'running', 'since'];
  /** Returns the fields without the marks of ended generations, which are deleted some seconds later. */
  const fieldsOf = async (owner: Identity) =>
    Object.entries(await redis.client.hgetall(keyOf(owner)))
      .flatMap(([name, value]) => (value === 'ended' ? [] : [name]))
      .sort();

  t.test('a budget holds over all replicas, and nothing stays reserved for ended generations', async (t) => {
    const owner = ownerOf(1_000);
    const running = await a.reserve(owner, 600);
    t.equal(await b.fits(owner, 400), true);
    t.equal(await b.fits(owner, 401), false, 'the estimate of A counts on B');
    end(running, 250);
    await settled();
    t.equal(await b.fits(owner, 750), true);
    t.equal(await b.fits(owner, 751), false, 'the cost replaces it');
    await settled();
    t.equal(await tokens(owner), 250);
    t.same(await fieldsOf(owner), SUMS);
  });

  t.test('parallel questions on both replicas do not exceed it', async (t) => {
    const owner = ownerOf(1_000);
    const both = [a, b].flatMap(({ reserve }) => Array.from({ length: 10 }, () => reserve(owner, 130)));
    const all = await Promise.allSettled(both);
    t.equal(all.filter(({ status }) => status === 'fulfilled').length, 7);
    t.equal(await tokens(owner), 910);
  });

  t.test('a day ends a day after it, and a refusal costs nothing', async (t) => {
    const owner = ownerOf(100);
    end(await a.reserve(owner, 100), 120);
    await settled();
    const { retryAfterMs } = (await refusal(b.reserve(owner, 1))) as { retryAfterMs: number };
    const ttlMs = await redis.client.pttl(keyOf(owner));
    t.ok(Math.abs(ttlMs - 86_400_000 - retryAfterMs) < 10_000, `${ttlMs} ms`);
    t.equal(await tokens(owner), 120);
    t.same(await fieldsOf(owner), SUMS);
  });

  t.test('a month has a key of its own', async (t) => {
    const owner: Identity = { owner: 'key:month', budget: { period: 'month', amount: 1 } };
    await a.reserve(owner, 100);
    const [key] = await redis.client.keys('p:limit:budget:*:key:month');
    t.match(key, /^p:limit:budget:\d{4}-\d{2}:key:month$/);
  });

  t.test('the largest sums are exact in Redis', async (t) => {
    const owner: Identity = { owner: 'key:rich', budget: { period: 'day', amount: 1_000_000 } };
    (await a.reserve(owner, 1, [{ input: 999_999 * 1e6, output: 0 }])).settle({}, 0, () => 999_999.999_999);
    await settled();
    t.equal(await cost('key:rich'), 999_999_999_999_000);
    (await b.reserve(owner, 1)).settle({}, 0, () => 1e-9);
    await settled();
    t.equal(await cost('key:rich'), 999_999_999_999_001);
    const huge: Identity = { owner: 'key:huge', budget: { period: 'day', amount: 1_000_000 } };
    (await b.reserve(huge, 1)).settle({}, 0, () => Number.MAX_VALUE);
    await settled();
    t.equal(await cost('key:huge'), 1e15, 'one answer counts as the largest budget at most');
  });

  t.test('a question that is larger than the budget needs all of it, a free one nothing', async (t) => {
    const owner = ownerOf(1_000);
    t.equal(await a.fits(owner, 5_000), true);
    end(await a.reserve(owner, 5_000), 1);
    await settled();
    t.equal(await b.fits(owner, 5_000), false);
    end(await b.reserve(owner, 999), 2_000);
    await settled();
    t.equal(await a.fits(owner, 1), false);
    end(await a.reserve(owner, 100, [{ input: 0, output: 0 }]), 0);
    await settled();
    t.equal(await tokens(owner), 2_001);
  });

  t.test('another replica settles the charge of a dead one, exactly and once', async (t) => {
    const owner: Identity = { ...ownerOf(1_000), holder: ownerOf(1_000) };
    const dead = await a.reserve(owner, 600);
    const adopted = adopt(b, dead);
    t.equal(await tokens(owner), 600);
    end(adopted, 900);
    await settled();
    t.equal(await tokens(owner), 900);
    t.equal(await tokens(owner.holder as Identity), 900, 'all payers');
    end(dead, 100);
    await settled();
    t.equal(await tokens(owner), 900, 'the other one was only paused');
  });

  t.test(
    'a replica that dies after the charge, and before its stream has ended in Redis, has charged it',
    async (t) => {
      const owner = ownerOf(1_000);
      const dead = await a.reserve(owner, 600);
      const adopted = adopt(b, dead);
      end(dead, 250);
      await settled();
      adopted.settle(undefined, 0, () => undefined);
      await settled();
      t.equal(await tokens(owner), 250);
    },
  );

  t.test('a replica that hands over leaves the charge as it is', async (t) => {
    const owner = ownerOf(1_000);
    const first = await a.reserve(owner, 600);
    const adopted = adopt(b, first);
    first.settle(undefined, 0);
    await settled();
    t.equal(await tokens(owner), 600, 'until the other one ends it');
    adopted.settle(undefined, 0, () => undefined);
    await settled();
    t.equal(await tokens(owner), 600, 'an unknown cost is at least the estimate');
  });

  t.test('a charge that arrives after its end costs nothing', async (t) => {
    const owner = ownerOf(1_000);
    // Redis runs the commands of the replica when the pause is over: it has given up by then.
    await redis.client.call('CLIENT', 'PAUSE', 400, 'ALL');
    const running = await a.reserve(owner, 600);
    end(running, 100);
    await until(async () => (await tokens(owner)) === 100, 'the end is charged');
    await settled();
    t.equal(await tokens(owner), 100, 'once');
  });
});

t.test('while Redis is unavailable', { skip: noRedis, timeout: 120_000 }, async (t) => {
  const play = async (t: Test, isPersistent: boolean) => {
    const redisArgs = isPersistent ? persistentRedis(t) : [];
    const { redis, a, b, settled, stopRedis, startRedisAgain, cost } = await startReplicas(t, { redisArgs });
    const tokens = async ({ owner }: Identity) => (await cost(owner)) / 1_000;
    const running = ownerOf(1_000);
    const known = ownerOf(1_000);
    const spent = ownerOf(1_000);
    const unknown = ownerOf(1_000);
    const tiny = ownerOf(1_000);
    /** Budgets of which only one replica has heard the last answer. */
    const ofA = ownerOf(1_000);
    const ofB = ownerOf(1_000);
    end(await b.reserve(ofA, 100), 100);
    end(await a.reserve(ofB, 100), 100);
    await settled();
    end(await a.reserve(ofA, 300), 300);
    end(await b.reserve(ofB, 300), 300);
    const before = await a.reserve(running, 100);
    const ended = await b.reserve(running, 200);
    end(await a.reserve(known, 400), 400);
    end(await a.reserve(spent, 1_000), 1_500);
    await settled();
    t.equal(await b.fits(known, 10), true, 'B has heard of what A has used');
    await settled();
    await stopRedis();

    const degraded = () => metricValue(a.app, 'sluice_limiter_degraded_total');
    const count = await degraded();
    t.equal(await a.fits(spent, 1), false, 'a budget that is used up stays so');
    t.equal(await degraded(), count + 1, 'a decision without Redis is counted');
    end(ended, 250);
    const alone = await a.reserve(known, 200);
    t.equal(await a.fits(known, 100), true);
    t.equal(await a.fits(known, 101), false, 'half of the 600 that were left');
    end(alone, 150);
    t.equal(await a.fits(known, 150), true, 'what the answer has not used is free again');
    t.equal(await a.fits(known, 151), false);
    t.equal(await b.fits(known, 300), true, 'B has the other half');
    const still = await b.reserve(known, 250);
    t.equal(await b.fits(known, 51), false);
    t.equal(await b.fits(unknown, 5_000), true, 'nothing is known to be used');
    end(await b.reserve(unknown, 500), 500);
    t.equal(await b.fits(unknown, 1), false, 'half of the amount');
    for (let i = 0; i < 10; i++) end(await a.reserve(tiny, 1), 1);

    await startRedisAgain();
    // The replicas that know what was used have said so.
    t.equal(await tokens(running), 350, 'an estimate that runs, and an answer that has ended meanwhile');
    t.equal(await tokens(known), 400 + 150 + 250);
    t.equal(await tokens(spent), 1_500);
    t.equal(await tokens(unknown), 500);
    t.equal(await tokens(tiny), 10);
    t.same([await tokens(ofA), await tokens(ofB)], [400, 400], 'the replica that has heard the most counts');
    t.equal(await a.fits(known, 201), false, 'the whole budget holds again, on every replica');
    end(still, 300);
    end(before, 50);
    await settled();
    t.equal(await tokens(known), 400 + 150 + 300);
    t.equal(await tokens(running), 300);
    const renewed = [a, b].map(({ app }) => new Promise<void>((done) => app.cluster?.lease.onRenewed(done)));
    await Promise.all(renewed);
    await settled();
    t.equal(await tokens(known), 850, 'nothing is sent twice');
    t.equal(
      await redis.client.hget(`p:limit:budget:${new Date().toISOString().slice(0, 10)}:${known.owner}`, 'running'),
      '0',
    );
  };
  t.jobs = 2;
  t.test('each replica grants its share, and Redis that has kept its data gets all of it once', (t) => play(t, true));
  t.test('also Redis that has lost its data: the replicas restore what they have read', (t) => play(t, false));
});

t.test(
  'a Redis that was restored from an old snapshot gets back what replicas have read',
  { skip: noRedis },
  async (t) => {
    const { redis, a, settled, cost } = await startReplicas(t);
    const owner = ownerOf(1_000);
    end(await a.reserve(owner, 100), 100);
    await settled();
    const [key = ''] = await redis.client.keys('p:limit:budget:*');
    const snapshot = await redis.client.dumpBuffer(key);
    end(await a.reserve(owner, 400), 400);
    await settled();
    await redis.client.restore(key, 0, snapshot as Buffer, 'REPLACE');
    t.equal(await cost(owner.owner), 100_000);
    t.equal(await a.fits(owner, 501), false);
    t.equal(await cost(owner.owner), 500_000);
  },
);
