import t from 'tap';
import { fault } from './fake-provider.ts';
import { type Behaviour, type SimulationOptions, simulate } from './simulation.ts';

/**
 * Ten minutes of questions to a route whose first target has a fault and whose second one is well: no question fails,
 * and the calls beyond one per question are those of docs/reliability.md.
 */

const SECONDS = 600;
const limited = (retryAfterMs?: number) => fault('upstream_rate_limited', { retryAfterMs });
const REFUSED = fault('upstream_rejected', { reason: 'credentials', retryable: false, upstreamStatus: 401 });
const FAILED = fault('upstream_failed');
const FIRST_TOKEN_MS = 10_000;
const KEYS = ['k1', 'k2', 'k3'];

/** Periods of a refused key without calls: 5, 10, 20 … up to 300 seconds. */
const REFUSALS_PER_KEY = 7;
/** Periods of an open breaker: 5, 10, 20, 40 and then 60 seconds. */
const OPENINGS = 13;

interface Scenario {
  readonly first: { readonly keys?: readonly string[]; readonly behave: Behaviour };
  readonly owners?: readonly string[];
  /** True for a scenario that is left out at 100 questions a second, where another one covers it. */
  readonly isCovered?: true;
  /** Most calls beyond one per question. */
  bound(questions: number, perSecond: number): number;
}

let random = 1;
/** Returns a number from 0 to 1, the same ones in every run. */
const nextRandom = () => {
  random = (random * 48_271) % 2_147_483_647;
  return random / 2_147_483_647;
};

const SCENARIOS: Record<string, Scenario> = {
  'a rate limit without a delay': {
    first: { keys: ['k'], behave: () => limited() },
    bound: () => SECONDS + 1,
  },
  'a rate limit with a delay of 20 s': {
    isCovered: true,
    first: { keys: ['k'], behave: () => limited(20_000) },
    bound: () => SECONDS / 20 + 1,
  },
  'a rate limit of each of three keys': {
    isCovered: true,
    first: { keys: KEYS, behave: () => limited() },
    bound: () => 3 * (SECONDS + 1),
  },
  'a rate limit of each of three keys with a delay': {
    isCovered: true,
    first: { keys: KEYS, behave: () => limited(20_000) },
    bound: () => 3 * (SECONDS / 20 + 1),
  },
  'a rate limit of one key of three': {
    isCovered: true,
    first: { keys: KEYS, behave: ({ key }) => (key === 'k1' ? limited(20_000) : undefined) },
    bound: () => SECONDS / 20 + 1,
  },
  'a server that refuses the rate and has no key': {
    isCovered: true,
    first: { behave: () => limited() },
    bound: () => SECONDS + 1,
  },
  'dead keys': { isCovered: true, first: { keys: KEYS, behave: () => REFUSED }, bound: () => 3 * REFUSALS_PER_KEY },
  'two dead keys and a good one': {
    isCovered: true,
    first: { keys: KEYS, behave: ({ key }) => (key === 'k3' ? undefined : REFUSED) },
    bound: () => 2 * REFUSALS_PER_KEY,
  },
  'every call fails': { isCovered: true, first: { behave: () => FAILED }, bound: () => 5 + OPENINGS },
  'every call of several owners fails': {
    isCovered: true,
    first: { behave: () => FAILED },
    owners: ['a', 'b', 'c'],
    bound: () => 5 + 2 * OPENINGS,
  },
  'every second call fails': {
    isCovered: true,
    first: { behave: ({ count }) => (count % 2 === 0 ? FAILED : undefined) },
    bound: (questions) => questions,
  },
  'half of the calls fail, at random': {
    first: { behave: () => (nextRandom() < 0.5 ? FAILED : undefined) },
    bound: (questions) => questions,
  },
  'no first token in time': {
    first: { behave: () => FIRST_TOKEN_MS * 2 },
    // Calls that already run when the breaker opens, and one a second while a half-open one waits for the first result.
    bound: (_, perSecond) => 5 + ((perSecond + OPENINGS) * FIRST_TOKEN_MS) / 1_000 + OPENINGS,
  },
};

const run = ({ first, owners }: Scenario, perSecond: number) => {
  const options: SimulationOptions = {
    targets: { a: first, b: {} },
    perSecond,
    seconds: SECONDS,
    firstTokenMs: FIRST_TOKEN_MS,
    ...(owners && { owners }),
  };
  return simulate(options);
};

/** Adds the test of one rate. At a high rate, a scenario that another one covers is left out. */
export function testRate(perSecond: number): void {
  const name = `${perSecond} questions a second: the second target answers what the first does not`;
  t.test(name, { timeout: 50_000 }, async (t) => {
    for (const [name, scenario] of Object.entries(SCENARIOS)) {
      if (perSecond >= 100 && scenario.isCovered) continue;
      const { questions, failures, extra, requests, retries, denied } = await run(scenario, perSecond);
      const bound = scenario.bound(questions, perSecond);
      t.same(failures, [], `${name}: no question fails`);
      t.ok(extra <= bound, `${name}: ${extra} calls beyond one per question, at most ${bound}`);
      t.ok(requests.a !== undefined && requests.a > 0, `${name}: the first target is asked`);
      t.same([retries, denied], [0, 0], `${name}: the retry budget is not used`);
    }
  });
}
