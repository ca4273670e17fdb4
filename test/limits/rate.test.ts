import fc from 'fast-check';
import t, { type Test } from 'tap';
import { createRateLimiter, type RateLimiter } from '../../plugins/limits/rate.ts';
import type { Cluster } from '../../plugins/redis/index.ts';
import { until } from '../helper.ts';
import { manualDate } from '../manual-date.ts';
import { noRedis, startRedis } from '../redis.ts';
import { bareLimits } from './bare-limits.ts';

/** The counter of requests: one for each owner, whatever limits the owner has had. */

const MINUTE_MS = 60_000;
const SEED = process.env.SEED === undefined ? Date.now() % 2 ** 31 : Number(process.env.SEED);
const MEMORY_RUNS = Number(process.env.RUNS || 60);
const REDIS_RUNS = Number(process.env.RUNS || 15);

type Step = { do: 'count'; owner: string; limit: number; replica: number } | { do: 'wait'; ms: number };

const steps = fc.array(
  fc.oneof(
    {
      weight: 9,
      arbitrary: fc.record({
        do: fc.constant('count' as const),
        owner: fc.constantFrom('a', 'b', 'c'),
        limit: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.constant(1_000_000_000)),
        replica: fc.nat(1),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: MINUTE_MS + 1 }) }),
    },
  ),
  { maxLength: 60 },
);

/** Plays the steps, and compares every result with a list of the times of all requests. */
async function play(
  limiters: readonly RateLimiter[],
  steps: readonly Step[],
  { shareOf, wait, prefix }: { shareOf(limit: number): number; wait(ms: number): Promise<number>; prefix: string },
): Promise<void> {
  const windows = new Map<string, { count: number; ends: number }>();
  let now = 0;
  for (const step of steps) {
    if (step.do === 'wait') {
      now += await wait(step.ms);
      continue;
    }
    const { owner, limit, replica } = step;
    const limiter = limiters[replica % limiters.length] as RateLimiter;
    let window = windows.get(owner);
    if (window === undefined || now >= window.ends) window = { count: 0, ends: now + MINUTE_MS };
    window.count += 1;
    windows.set(owner, window);
    const { passed, remaining } = await limiter.count(`${prefix}${owner}`, limit);
    const share = shareOf(limit);
    const expected = [window.count <= share, Math.max(0, share - window.count)];
    const found = [passed, remaining];
    if (found.join() !== expected.join()) {
      throw new Error(`request ${window.count} of ${owner} with limit ${limit}: ${found}, not ${expected}`);
    }
  }
}

t.test('a changed limit resets nothing, in memory', async (t) => {
  const date = manualDate(t);
  let run = 0;
  const limiter = createRateLimiter({ cluster: undefined, expectedReplicas: 1, onDegraded: () => {} });
  const options = (prefix: string) => ({
    prefix,
    shareOf: (limit: number) => limit,
    async wait(ms: number) {
      date.advance(ms);
      return ms;
    },
  });
  await fc.assert(
    fc.asyncProperty(steps, async (steps) => {
      run += 1;
      await play([limiter], steps, options(`${run} `));
    }),
    { seed: SEED, numRuns: MEMORY_RUNS, endOnFailure: true },
  );
  t.equal(run, MEMORY_RUNS);
});

t.test('a changed limit resets nothing while Redis is unavailable, and each replica grants its share', async (t) => {
  const date = manualDate(t);
  const run = async () => Promise.reject(new Error('unavailable'));
  const cluster = { connection: { run }, key: (...names: string[]) => names.join(':') } as unknown as Cluster;
  let degraded = 0;
  let counted = 0;
  let runs = 0;
  const limiter = createRateLimiter({
    cluster,
    expectedReplicas: 3,
    onDegraded() {
      degraded += 1;
    },
  });
  await fc.assert(
    fc.asyncProperty(steps, async (steps) => {
      runs += 1;
      counted += steps.filter((step) => step.do === 'count').length;
      await play([limiter], steps, {
        prefix: `${runs} `,
        shareOf: (limit) => Math.ceil(limit / 3),
        async wait(ms) {
          date.advance(ms);
          return ms;
        },
      });
    }),
    { seed: SEED, numRuns: MEMORY_RUNS, endOnFailure: true },
  );
  t.equal(degraded, counted, 'each decision is counted as degraded');
});

t.test('a changed limit resets nothing on two replicas with Redis', { skip: noRedis }, async (t) => {
  const { redis, limiters } = await startLimiters(t);
  let run = 0;
  await fc.assert(
    fc.asyncProperty(steps, async (steps) => {
      run += 1;
      const prefix = `${run} `;
      await play(limiters, steps, {
        prefix,
        shareOf: (limit) => limit,
        // Redis has no clock that a test could advance: its keys end as if a minute had passed.
        async wait() {
          const keys = await redis.client.keys(`p:limit:requests:${prefix}*`);
          for (const key of keys) {
            const left = await redis.client.pttl(key);
            if (left <= 0 || left > MINUTE_MS) throw new Error(`${key} expires in ${left} ms`);
          }
          if (keys.length > 0) await redis.client.del(...keys);
          return MINUTE_MS;
        },
      });
    }),
    { seed: SEED, numRuns: REDIS_RUNS, endOnFailure: true },
  );
  const keys = await redis.client.keys('p:limit:requests:*');
  t.ok(keys.length <= 3 * REDIS_RUNS, `${keys.length} keys: one for each owner, whatever its limits`);
});

async function startLimiters(t: Test) {
  const redis = await startRedis(t);
  const options = { redis: { url: redis.url, prefix: 'p' }, expectedReplicas: 2 };
  const replicas = await Promise.all([bareLimits(t, options), bareLimits(t, options)]);
  await until(() => replicas.every(({ app }) => app.cluster?.connection.isAvailable), 'Redis is available');
  const onDegraded = () => t.fail('Redis is available');
  const limiters = replicas.map(({ app: { cluster } }) =>
    createRateLimiter({ cluster, expectedReplicas: 2, onDegraded }),
  );
  return { redis, limiters };
}
