import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import t, { type Test } from 'tap';
import type { AnswerStatus } from '../../plugins/responses/api.ts';
import { until, writeConfig } from '../helper.ts';
import { noRedis, startRedis } from '../redis.ts';
import { type Asked, CALLERS, type Ending, FAILURE, finish, owns, type Replicas, startReplicas } from './replicas.ts';

/**
 * Random sequences of what callers do with stored responses: both stores, and every replica, behave like the model.
 * `RUNS` is the number of sequences for each store.
 */

const MAX_PER_OWNER = 3;
const ENDINGS: readonly (readonly [ending: Ending, status: AnswerStatus, text: string])[] = [
  [finish('stop'), 'completed', 'start end'],
  [finish('tool_calls'), 'completed', 'start end'],
  [finish('length'), 'incomplete', 'start end'],
  [finish('content_filter'), 'incomplete', 'start end'],
  [finish('other'), 'incomplete', 'start end'],
  [FAILURE, 'failed', 'start'],
];

interface Response {
  readonly asked: Asked;
  readonly caller: number;
  readonly request: string;
  isKept: boolean;
  end: (typeof ENDINGS)[number] | 'stopped' | undefined;
}

interface World {
  readonly replicas: Replicas;
  readonly responses: Response[];
}

type Step = (world: World) => Promise<void>;

const appOf = ({ apps }: Replicas, index: number) => apps[index % apps.length] as FastifyInstance;
const identityOf = (caller: number) => CALLERS[caller] as (typeof CALLERS)[number];
const pick = ({ responses }: World, index: number) => responses[index % Math.max(1, responses.length)];

/** Asks, and saves the question after or before the answer has ended. */
const ask =
  (caller: number, at: number, early: number | undefined): Step =>
  async (world) => {
    const { replicas, responses } = world;
    const app = appOf(replicas, at);
    const asked = await replicas.ask(app, identityOf(caller), 'foreground');
    const request = JSON.stringify({ question: asked.id });
    const response: Response = { asked, caller, request, isKept: true, end: undefined };
    if (early !== undefined) await end(early, response);
    await app.storedResponses.save(asked.id, identityOf(caller), request);
    const { owner } = identityOf(caller);
    responses.push(response);
    const kept = responses.filter((one) => one.isKept && identityOf(one.caller).owner === owner);
    for (const oldest of kept.slice(0, -MAX_PER_OWNER)) oldest.isKept = false;
    await check(world);
  };

async function end(index: number, response: Response): Promise<void> {
  if (response.end !== undefined) return;
  response.end = ENDINGS[index] as (typeof ENDINGS)[number];
  response.asked.end(response.end[0]);
  await response.asked.ended;
}

const endOne =
  (which: number, index: number): Step =>
  async (world) => {
    const response = pick(world, which);
    if (response) await end(index, response);
    await check(world);
  };

const stop =
  (which: number): Step =>
  async (world) => {
    const response = pick(world, which);
    if (response === undefined || response.end !== undefined) return;
    response.end = 'stopped';
    await response.asked.stream.stop();
    await response.asked.ended;
    await check(world);
  };

const remove =
  (which: number, caller: number, at: number): Step =>
  async (world) => {
    const response = pick(world, which);
    if (response === undefined) return;
    const isFound = response.isKept && owns(caller, response.caller);
    const { storedResponses } = appOf(world.replicas, at);
    const isDeleted = await storedResponses.delete(response.asked.id, identityOf(caller));
    if (isDeleted !== isFound) throw new Error(`deleted: ${isDeleted}, by caller ${caller}, of ${response.caller}`);
    if (isFound) response.isKept = false;
    await check(world);
  };

/** Compares every response with the model, on every replica and for every caller. */
async function check({ replicas, responses }: World): Promise<void> {
  for (const { asked, caller: starter, isKept, end: ending, request } of responses.slice(-6)) {
    for (const [i, identity] of CALLERS.entries()) {
      for (const app of replicas.apps) {
        const found = await app.storedResponses.find(asked.id, identity);
        const isFound = isKept && owns(i, starter);
        if ((found !== undefined) !== isFound) throw new Error(`found: ${!isFound}, by caller ${i}, of ${starter}`);
        if (found === undefined) continue;
        const { answer } = found;
        const [, status, text] = ending === 'stopped' ? [undefined, 'cancelled', ''] : (ending ?? []);
        const parts = text ? [{ type: 'text', text }] : [];
        const expected = ending && { status, parts };
        const seen = answer && { status: answer.status, parts: answer.parts };
        const same = found.request === request && JSON.stringify(seen) === JSON.stringify(expected);
        if (!same || found.owner !== identityOf(starter).owner)
          throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(expected)}`);
      }
    }
  }
}

const caller = fc.nat({ max: CALLERS.length - 1 });
const which = fc.nat({ max: 30 });
const at = fc.nat({ max: 1 });
const endingIndex = fc.nat({ max: ENDINGS.length - 1 });
const askStep = fc.tuple(caller, at, fc.option(endingIndex, { nil: undefined })).map((args) => ask(...args));
const step = fc.oneof(
  askStep,
  askStep,
  fc.tuple(which, endingIndex).map((args) => endOne(...args)),
  which.map(stop),
  fc.tuple(which, caller, at).map((args) => remove(...args)),
);

async function run(t: Test, replicas: Replicas, runs: number): Promise<void> {
  const property = fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 14 }), async (steps) => {
    const world: World = { replicas, responses: [] };
    for (const one of steps) await one(world);
    for (const { asked, caller, isKept } of world.responses) {
      asked.end(finish('stop'));
      await asked.ended;
      const [app] = replicas.apps as [FastifyInstance];
      if (isKept) await app.storedResponses.delete(asked.id, identityOf(caller));
    }
  });
  await fc.assert(property, { numRuns: Number(process.env.RUNS ?? runs) });
  await until(() => replicas.apps.every(({ streams }) => streams.active === 0), 'no answer runs');
  t.pass('every sequence behaves like the model');
}

const settings = (t: Test) => ({ CONFIG_FILE: writeConfig(t, `responses: { maxPerOwner: ${MAX_PER_OWNER} }\n`) });

t.test('random use of the store in memory', async (t) => {
  await run(t, await startReplicas(t, 1, { env: settings(t) }), 40);
});

t.test('random use of the store in Redis, by two replicas', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  await run(t, await startReplicas(t, 2, { redis, env: settings(t) }), 15);
  const index = await redis.client.keys('sluice:responses*');
  for (const key of index) {
    const left = await redis.client.type(key);
    t.equal(
      left === 'zset' ? await redis.client.zcard(key) : Number(await redis.client.get(key)),
      0,
      `${key} is empty`,
    );
  }
});
