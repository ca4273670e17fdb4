import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import t from 'tap';
import { FAULTS, type Fault, type Question, Scenario, startQuestionUpstream } from './model/scenario.ts';
import { noRedis, startRedis } from './redis.ts';

/**
 * Runs random sequences on two replicas: pages ask, leave and come back at either, streams are stopped at either,
 * the upstream writes, ends and fails, and the networks between the replicas and Redis have faults. `RUNS` is the
 * number of sequences; `SEED` repeats those of a failed run.
 */

const RUNS = Number(process.env.RUNS ?? 12);
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
const CONCURRENCY = 12;

/** State that the commands know before they run. */
interface Model {
  questions: { isRead: boolean; isFinished: boolean; hasText: boolean }[];
}

type Command = fc.AsyncCommand<Model, Scenario>;
type ModelQuestion = Model['questions'][number];

/** A command on a question, if there is one for which it makes sense. */
function onQuestion(
  name: string,
  pick: number,
  isPossible: (question: ModelQuestion) => boolean,
  change: Partial<ModelQuestion>,
  run: (scenario: Scenario, question: Question) => Promise<void>,
): Command {
  const possible = ({ questions }: Readonly<Model>) =>
    [...questions.keys()].filter((i) => isPossible(questions[i] as ModelQuestion));
  return {
    check: (model) => possible(model).length > 0,
    async run(model, scenario) {
      const indices = possible(model);
      const index = indices[pick % indices.length] as number;
      Object.assign(model.questions[index] as ModelQuestion, change);
      await run(scenario, scenario.questions[index] as Question);
    },
    toString: () => `${name}(${pick})`,
  };
}

function always(name: string, run: (scenario: Scenario, model: Model) => void | Promise<void>): Command {
  return {
    check: () => true,
    run: async (model, scenario) => run(scenario, model),
    toString: () => name,
  };
}

const ask = (replica: number) =>
  always(`ask(${replica})`, (scenario, { questions }) => {
    questions.push({ isRead: true, isFinished: false, hasText: false });
    scenario.ask(replica);
  });
const write = (pick: number, delta: string) =>
  onQuestion(
    'write',
    pick,
    ({ isFinished }) => !isFinished,
    { hasText: true },
    (scenario, question) => scenario.write(question, delta),
  );
const finish = (pick: number, how: 'end' | 'fail') =>
  onQuestion(
    how,
    pick,
    ({ isFinished, hasText }) => !isFinished && hasText,
    { isFinished: true },
    (scenario, question) => scenario.finish(question, how),
  );
const leave = (pick: number) =>
  onQuestion(
    'leave',
    pick,
    ({ isRead }) => isRead,
    { isRead: false },
    (scenario, question) => scenario.leave(question),
  );
const comeBack = (pick: number, replica: number) =>
  onQuestion(
    `comeBack to ${replica} `,
    pick,
    ({ isRead }) => !isRead,
    { isRead: true },
    (scenario, question) => scenario.comeBack(question, replica),
  );
const move = (pick: number, replica: number) =>
  onQuestion(
    `move to ${replica} `,
    pick,
    ({ isRead }) => isRead,
    {},
    async (scenario, question) => {
      await scenario.leave(question);
      await scenario.comeBack(question, replica);
    },
  );
const stop = (pick: number, replica: number) =>
  onQuestion(
    `stop at ${replica} `,
    pick,
    ({ isFinished }) => !isFinished,
    {},
    (scenario, question) => scenario.stop(question, replica),
  );
const disturb = (replica: number, fault: Fault) =>
  always(`${fault}(${replica})`, (scenario) => scenario.disturb(replica, fault));
const heal = (replica: number) => always(`heal(${replica})`, (scenario) => scenario.heal(replica));
const wait = (ms: number) =>
  always(`wait(${ms})`, async () => {
    await sleep(ms);
  });

const replica = fc.nat({ max: 1 });
const pick = fc.nat({ max: 3 });
const delta = fc.oneof(
  fc.string({ minLength: 1, maxLength: 8, unit: 'grapheme' }),
  fc.constant('你好 🚀 '.repeat(500)),
);
const commands = [
  replica.map(ask),
  replica.map(ask),
  fc.tuple(pick, delta).map(([i, content]) => write(i, content)),
  fc.tuple(pick, delta).map(([i, content]) => write(i, content)),
  fc.tuple(pick, fc.constantFrom('end', 'fail')).map(([i, how]) => finish(i, how as 'end' | 'fail')),
  pick.map(leave),
  fc.tuple(pick, replica).map(([i, to]) => comeBack(i, to)),
  fc.tuple(pick, replica).map(([i, to]) => move(i, to)),
  fc.tuple(pick, replica).map(([i, to]) => move(i, to)),
  fc.tuple(pick, replica).map(([i, to]) => stop(i, to)),
  fc.tuple(replica, fc.constantFrom(...FAULTS)).map(([i, fault]) => disturb(i, fault)),
  replica.map(heal),
  fc.integer({ min: 50, max: 1_500 }).map(wait),
  fc.integer({ min: 50, max: 1_500 }).map(wait),
];

t.test('random sequences of two replicas', { skip: noRedis, timeout: 60_000 + RUNS * 5_000 }, async (t) => {
  t.comment(`SEED=${SEED}`);
  const redis = await startRedis(t);
  const upstream = await startQuestionUpstream(t);
  const sequences = fc.sample(fc.commands(commands, { maxCommands: 15, size: 'max' }), { numRuns: RUNS, seed: SEED });
  for (let first = 0; first < sequences.length; first += CONCURRENCY) {
    const batch = [...sequences.slice(first, first + CONCURRENCY).entries()].map(
      ([i, sequence]) => [first + i, sequence] as const,
    );
    // Replicas that start keep the event loop busy, so no sequence begins before all have started.
    const scenarios = await Promise.all(batch.map(([i]) => Scenario.start(t, `s${i}`, redis, upstream)));
    const runOne = async ([i, sequence]: (typeof batch)[number]) => {
      const scenario = scenarios[i - first] as Scenario;
      const all = [ask(i % 2), ...sequence];
      try {
        await fc.asyncModelRun(() => ({ model: { questions: [] }, real: scenario }), all);
        await scenario.check();
        t.pass(`sequence ${i}`);
      } catch (error) {
        t.fail(`sequence ${i} of SEED=${SEED}: ${all.join(', ')}: ${(error as Error).message}`);
      }
    };
    await Promise.all(batch.map(runOne));
  }
});
