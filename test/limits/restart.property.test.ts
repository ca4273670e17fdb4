import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import type { Reservation } from '../../plugins/limits/reservation.ts';
import { noRedis, persistentRedis } from '../redis.ts';
import { startReplicas } from './replicas.ts';

/**
 * Plays random questions and ends on two replicas, whose Redis is killed and started again in between. The sum in
 * Redis is that of the counts of the provider, or of the estimates where it sent none.
 */

const RUNS = Number(process.env.RUNS || 4);
const SEED = process.env.SEED === undefined ? Date.now() % 2 ** 31 : Number(process.env.SEED);
const LIMIT = 5_000;

type Step =
  | { do: 'reserve'; on: 'a' | 'b'; tokens: number }
  /** `tokens` as the provider counted them; undefined for an answer that was left, stopped or cut. */
  | { do: 'end'; index: number; tokens: number | undefined; characters: number }
  | { do: 'stop' | 'start' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('reserve' as const),
      on: fc.constantFrom('a' as const, 'b' as const),
      tokens: fc.integer({ min: 1, max: 1_500 }),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('end' as const),
      index: fc.nat(20),
      tokens: fc.option(fc.oneof(fc.constant(0), fc.nat(3_000)), { nil: undefined }),
      characters: fc.nat(8_000),
    }),
  },
);
const steps = (length: number) => fc.array(step, { minLength: length, maxLength: length });
/** One outage in each run, with questions and ends before, while and after it. */
const run = fc
  .tuple(steps(10), steps(6), steps(10))
  .map(([before, during, after]): Step[] => [...before, { do: 'stop' }, ...during, { do: 'start' }, ...after]);

interface Running {
  readonly reservation: Reservation;
  readonly estimate: number;
  /** Holder of the estimate: Redis, nobody if Redis has lost it, or the share of the replica. */
  readonly charged: 'redis' | 'lost' | 'share';
}

async function play(t: Test, isPersistent: boolean): Promise<void> {
  const { redis, a, b, settled, stopRedis, startRedisAgain, used } = await startReplicas(t, {
    redisArgs: isPersistent ? persistentRedis(t) : [],
  });
  let number = 0;
  await fc.assert(
    fc.asyncProperty(run, async (steps) => {
      const name = `o${number++}`;
      const owner: Identity = { owner: name, tokensPerMinute: LIMIT };
      let running: Running[] = [];
      let expected = 0;
      let isStopped = false;
      for (const step of steps) {
        if (step.do === 'reserve') {
          const reservation = await { a, b }[step.on].reserve(owner, step.tokens).catch(() => undefined);
          const fits = expected + step.tokens <= LIMIT;
          if (!isStopped && fits !== (reservation !== undefined)) {
            throw new Error(`${step.tokens} tokens beside ${expected}: ${fits ? 'refused' : 'accepted'}`);
          }
          if (reservation === undefined) continue;
          running.push({ reservation, estimate: step.tokens, charged: isStopped ? 'share' : 'redis' });
          if (!isStopped) expected += step.tokens;
        } else if (step.do === 'end') {
          const [ended] = running.splice(step.index % Math.max(1, running.length), 1);
          if (ended === undefined) continue;
          const { reservation, estimate, charged } = ended;
          reservation.settle(step.tokens === undefined ? undefined : { totalTokens: step.tokens }, step.characters);
          const actual = step.tokens ?? Math.max(estimate, 1 + Math.ceil(step.characters / 4));
          const isLost = charged === 'lost' || (isStopped && !isPersistent);
          if (charged !== 'share') expected += isLost ? Math.max(0, actual - estimate) : actual - estimate;
          if (!isStopped) await settled();
        } else if (step.do === 'stop') {
          await stopRedis();
          isStopped = true;
          if (!isPersistent) {
            expected = 0;
            running = running.map((one) => ({ ...one, charged: 'lost' }));
          }
        } else {
          await startRedisAgain();
          isStopped = false;
        }
        if (!isStopped && (await used(name)) !== expected) {
          throw new Error(
            `${await used(name)} tokens are charged instead of ${expected} after ${JSON.stringify(step)}`,
          );
        }
      }
      for (const { reservation } of running) reservation.settle({ totalTokens: 0 }, 0);
      await settled();
      const fields = await redis.client.hkeys(`p:limit:tokens:${name}`);
      if (fields.some((field) => field !== 'used' && field !== 'ends')) throw new Error(`Redis still has ${fields}`);
    }),
    { seed: SEED, endOnFailure: true, numRuns: RUNS },
  );
  t.pass(`${RUNS} runs, seed ${SEED}`);
}

t.test('the sum that is charged after a restart of Redis', { skip: noRedis, timeout: 120_000 }, async (t) => {
  t.jobs = 2;
  t.test('is that of all answers, if Redis keeps its data', (t) => play(t, true));
  t.test('is that of answers since then, and of what older ones exceed their estimate by, if not', (t) =>
    play(t, false),
  );
});
