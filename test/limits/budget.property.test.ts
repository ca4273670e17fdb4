import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import type { Reservation } from '../../plugins/limits/reservation.ts';
import { noRedis, persistentRedis } from '../redis.ts';
import type { BareLimits } from './bare-limits.ts';
import { startReplicas } from './replicas.ts';

/**
 * Plays random questions and ends on two replicas, whose Redis is killed and started again in between. Afterwards the
 * sum in Redis is that of all answers, also if Redis has lost its data. It exceeds the amount by no more than what
 * answers cost beyond their estimate, what a replica had not heard of, and one answer that each has accepted alone.
 */

const RUNS = Number(process.env.RUNS || 3);
const SEED = process.env.SEED === undefined ? Date.now() % 2 ** 31 : Number(process.env.SEED);
/** Tokens. One costs a millionth of a USD. */
const AMOUNT = 5_000;

type Name = 'a' | 'b';
type Step =
  | { do: 'reserve'; on: Name; tokens: number }
  /** `tokens` are its cost; undefined if that is unknown. */
  | { do: 'end'; index: number; tokens: number | undefined }
  /** The replica hands a generation over to the other one, which may end it before or after. */
  | { do: 'take over'; index: number; isPaused: boolean }
  | { do: 'stop' | 'start' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('reserve' as const),
      on: fc.constantFrom<Name[]>('a', 'b'),
      tokens: fc.integer({ min: 1, max: 1_500 }),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('end' as const),
      index: fc.nat(20),
      tokens: fc.option(fc.oneof(fc.constant(0), fc.nat(3_000)), { nil: undefined }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('take over' as const), index: fc.nat(20), isPaused: fc.boolean() }),
  },
);
const steps = (length: number) => fc.array(step, { minLength: length, maxLength: length });
/** One outage in each run, with questions and ends before, while and after it. */
const run = fc
  .tuple(steps(12), steps(8), steps(10))
  .map(([before, during, after]): Step[] => [...before, { do: 'stop' }, ...during, { do: 'start' }, ...after]);

interface Running {
  readonly on: Name;
  readonly reservation: Reservation;
  readonly estimate: number;
  /** The same generation on a replica that was paused, and ends it too late. */
  readonly late?: Reservation;
}

const other = (name: Name): Name => (name === 'a' ? 'b' : 'a');

async function play(t: Test, isPersistent: boolean): Promise<void> {
  const { redis, a, b, settled, stopRedis, startRedisAgain, cost } = await startReplicas(t, {
    redisArgs: isPersistent ? persistentRedis(t) : [],
  });
  const replicas: Record<Name, BareLimits> = { a, b };
  let number = 0;
  await fc.assert(
    fc.asyncProperty(run, async (steps) => {
      const name = `o${number++}`;
      const owner: Identity = { owner: name, budget: { period: 'day', amount: AMOUNT / 1e6 } };
      const running: Running[] = [];
      let expected = 0;
      /** Number by which the sum may exceed the amount. */
      let excess = 0;
      /** Sum when each replica heard of it last. */
      const heard: Record<Name, number> = { a: 0, b: 0 };
      const largestAlone: Record<Name, number> = { a: 0, b: 0 };
      let isStopped = false;
      for (const step of steps) {
        if (step.do === 'reserve') {
          const reservation = await replicas[step.on].reserve(owner, step.tokens).catch(() => undefined);
          const fits = expected + step.tokens <= AMOUNT;
          if (!isStopped && fits !== (reservation !== undefined)) {
            throw new Error(`${step.tokens} tokens beside ${expected}: ${fits ? 'refused' : 'accepted'}`);
          }
          if (!isStopped) heard[step.on] = expected;
          if (reservation === undefined) continue;
          if (isStopped) largestAlone[step.on] = Math.max(largestAlone[step.on], step.tokens);
          running.push({ on: step.on, reservation, estimate: step.tokens });
          expected += step.tokens;
        } else if (step.do === 'end') {
          const [ended] = running.splice(step.index % Math.max(1, running.length), 1);
          if (ended === undefined) continue;
          const { reservation, estimate, late } = ended;
          const tokens = step.tokens;
          reservation.settle({ totalTokens: 0 }, 0, () => (tokens === undefined ? undefined : tokens / 1e6));
          if (!isStopped) await settled();
          // The end that reaches Redis first counts. Without Redis, the other replica is told that it has lost the stream.
          late?.settle({ totalTokens: 0 }, 0, isStopped ? undefined : () => 0.001);
          expected += (tokens ?? estimate) - estimate;
          excess += Math.max(0, (tokens ?? 0) - estimate);
          if (!isStopped) await settled();
        } else if (step.do === 'take over') {
          // A stream that is taken over is in Redis, and so is its charge.
          const index = step.index % Math.max(1, running.length);
          const taken = running[index];
          if (isStopped || taken === undefined || taken.late !== undefined) continue;
          const { reservation, estimate, on } = taken;
          const { charges } = reservation;
          const next = replicas[other(on)].app.limits.adoptReservation({ estimate: reservation.estimate, charges }, []);
          if (!step.isPaused) reservation.settle(undefined, 0);
          running[index] = { on: other(on), reservation: next, estimate, ...(step.isPaused && { late: reservation }) };
        } else if (step.do === 'stop') {
          await stopRedis();
          isStopped = true;
          // A replica grants half of what it believes to be left.
          for (const name of ['a', 'b'] as const) excess += Math.max(0, expected - heard[name]) / 2;
        } else {
          await startRedisAgain();
          isStopped = false;
          // The last answer that each has accepted alone may be larger than what was left of its share.
          excess += largestAlone.a + largestAlone.b;
        }
        if (isStopped) continue;
        const charged = (await cost(name)) / 1_000;
        const done = JSON.stringify(step);
        if (charged !== expected) throw new Error(`${charged} tokens instead of ${expected} after ${done}`);
        if (charged > AMOUNT + excess) throw new Error(`${charged} of ${AMOUNT} tokens are charged after ${done}`);
      }
      for (const { reservation, late } of running) {
        reservation.settle({ totalTokens: 0 }, 0, () => 0);
        if (late) await settled();
        late?.settle({ totalTokens: 0 }, 0, () => 1);
      }
      await settled();
      const [key = ''] = await redis.client.keys(`p:limit:budget:*:${name}`);
      if (key !== '' && (await redis.client.hget(key, 'running')) !== '0')
        throw new Error('an estimate is still charged');
    }),
    { seed: SEED, endOnFailure: true, numRuns: RUNS },
  );
  t.pass(`${RUNS} runs, seed ${SEED}`);
}

t.test(
  'the sum of a budget after a restart of Redis is that of all answers',
  { skip: noRedis, timeout: 120_000 },
  async (t) => {
    t.jobs = 2;
    t.test('if Redis keeps its data', (t) => play(t, true));
    t.test('if Redis has lost its data', (t) => play(t, false));
  },
);
