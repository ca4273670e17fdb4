import fc from 'fast-check';
import t from 'tap';
import type { ModelPrice, TokenPrices } from '../../plugins/config/price-file.ts';
import { costOf, sumCosts } from '../../plugins/prices/cost.ts';
import type { Usage } from '../../providers/types.ts';
import { openAIUsage, responsesUsage } from '../../providers/wire/openai-usage.ts';
import {
  anthropic,
  type Dialect,
  DONE,
  events,
  gemini,
  lines,
  ollama,
  openai,
  startDialects,
} from '../providers/dialects.ts';
import { fixtures, noRecordings } from '../providers/fixtures.ts';
import { SEED } from '../providers/random.ts';

/** Tests what answers cost: for the usage of every API, and for every usage and price. */

/** No price is that of another kind, so that tokens of the wrong kind, or charged twice, change the cost. */
const PRICE: ModelPrice = { input: 2, output: 10, cached: 0.5, cacheWrite: 2.5, longCacheWrite: 4, reasoning: 12 };
/** Millionths of a USD. */
const micros = (...parts: [tokens: number, price: number][]) =>
  parts.reduce((sum, [tokens, price]) => sum + tokens * price, 0) / 1e6;

/** 100 tokens of input, 40 of them cached; 50 of output, 20 of them reasoning. */
const WHOLE = micros([60, 2], [40, 0.5], [30, 10], [20, 12]);
const NOT_CACHED = micros([100, 2], [30, 10], [20, 12]);
const PLAIN = micros([100, 2], [50, 10]);

const chat = (usage: unknown) =>
  events(openai.chunk({ content: 'x' }), openai.chunk({}, 'stop'), openai.usage(usage)) + DONE;
const messages = (first: object, last: object) =>
  events(anthropic.start(first), ...anthropic.text('x'), ...anthropic.end('end_turn', last));
const generate = (usageMetadata: object) => events(gemini.chunk([{ text: 'x' }], 'STOP', { usageMetadata }));
const evaluate = (end: object) => lines(ollama.line({ content: 'x' }), ollama.end('stop', end));
const reasoning = { completion_tokens_details: { reasoning_tokens: 20 } };

const USAGES: [name: string, dialect: Dialect, body: string, cost: number | undefined][] = [
  [
    'OpenAI: cached tokens are part of the prompt, reasoning of the completion',
    'openai-compatible',
    chat({
      prompt_tokens: 100,
      completion_tokens: 50,
      total_tokens: 150,
      prompt_tokens_details: { cached_tokens: 40 },
      ...reasoning,
    }),
    WHOLE,
  ],
  [
    'xAI: reasoning is beside the completion',
    'openai-compatible',
    chat({
      prompt_tokens: 100,
      completion_tokens: 30,
      total_tokens: 150,
      prompt_tokens_details: { cached_tokens: 40 },
      ...reasoning,
    }),
    WHOLE,
  ],
  [
    'DeepSeek: cached tokens have a name of their own',
    'openai-compatible',
    chat({
      prompt_tokens: 100,
      completion_tokens: 50,
      prompt_cache_hit_tokens: 40,
      prompt_cache_miss_tokens: 60,
      ...reasoning,
    }),
    WHOLE,
  ],
  [
    'Moonshot: cached tokens are beside the other counts',
    'openai-compatible',
    chat({ prompt_tokens: 100, completion_tokens: 50, cached_tokens: 40, ...reasoning }),
    WHOLE,
  ],
  [
    'OpenRouter: tokens written to the cache are part of the prompt',
    'openai-compatible',
    chat({
      prompt_tokens: 100,
      completion_tokens: 50,
      prompt_tokens_details: { cached_tokens: 40, cache_write_tokens: 10 },
      completion_tokens_details: { reasoning_tokens: 0 },
    }),
    micros([50, 2], [40, 0.5], [10, 2.5], [50, 10]),
  ],
  [
    'Bella: both caches',
    'bella',
    chat({ prompt_tokens: 100, completion_tokens: 50, cache_read_tokens: 40, cache_creation_tokens: 10 }),
    micros([50, 2], [40, 0.5], [10, 2.5], [50, 10]),
  ],
  ['without details', 'openai-compatible', chat({ prompt_tokens: 100, completion_tokens: 50 }), PLAIN],
  ['nothing was used', 'openai-compatible', chat({ prompt_tokens: 0, completion_tokens: 0 }), 0],
  [
    'Anthropic: both caches are beside the input, and the longer one has its own price',
    'anthropic',
    messages(
      {
        input_tokens: 50,
        output_tokens: 1,
        cache_read_input_tokens: 40,
        cache_creation_input_tokens: 10,
        cache_creation: { ephemeral_5m_input_tokens: 6, ephemeral_1h_input_tokens: 4 },
      },
      { output_tokens: 50, output_tokens_details: { thinking_tokens: 20 } },
    ),
    micros([50, 2], [40, 0.5], [6, 2.5], [4, 4], [30, 10], [20, 12]),
  ],
  [
    'Anthropic: without the lifetimes of the cache',
    'anthropic',
    messages({ input_tokens: 90, cache_creation_input_tokens: 10 }, { output_tokens: 50 }),
    micros([90, 2], [10, 2.5], [50, 10]),
  ],
  [
    'Gemini: thoughts are beside the candidates, cached content is part of the prompt',
    'gemini',
    generate({
      promptTokenCount: 100,
      candidatesTokenCount: 30,
      thoughtsTokenCount: 20,
      cachedContentTokenCount: 40,
      totalTokenCount: 150,
    }),
    WHOLE,
  ],
  ['Ollama', 'ollama', evaluate({ prompt_eval_count: 100, eval_count: 50 }), PLAIN],
  ['no usage', 'openai-compatible', openai.answer('stop'), undefined],
  ['only a total', 'openai-compatible', chat({ total_tokens: 150 }), undefined],
  ['no output', 'openai-compatible', chat({ prompt_tokens: 100, total_tokens: 150 }), undefined],
  ['no input', 'openai-compatible', chat({ completion_tokens: 50, total_tokens: 150 }), undefined],
  ['a cached prompt of Ollama has no count', 'ollama', evaluate({ eval_count: 50 }), undefined],
  [
    'more cached tokens than input: nobody knows what the counts mean',
    'openai-compatible',
    chat({ prompt_tokens: 7, completion_tokens: 8, prompt_tokens_details: { cached_tokens: 161 } }),
    undefined,
  ],
  [
    'more reasoning than output',
    'openai-compatible',
    chat({ prompt_tokens: 7, completion_tokens: 8, total_tokens: 15, ...reasoning }),
    undefined,
  ],
  ['a negative count', 'openai-compatible', chat({ prompt_tokens: -7, completion_tokens: 8 }), undefined],
];

t.test('an answer costs what its tokens cost, each charged once, for the usage of every API', async (t) => {
  const play = await startDialects(t);
  for (const [name, dialect, body, cost] of USAGES) {
    const { finish } = await play(dialect, body);
    t.equal(costOf(finish?.usage, PRICE), cost, name);
  }
  const usage = {
    input_tokens: 100,
    output_tokens: 50,
    total_tokens: 150,
    output_tokens_details: { reasoning_tokens: 20 },
  };
  const cached = { input_tokens_details: { cached_tokens: 40 } };
  t.equal(costOf(responsesUsage({ ...usage, ...cached }), PRICE), WHOLE, 'Responses API');
  t.equal(costOf(responsesUsage(usage), PRICE), NOT_CACHED, 'Responses API, without a cache');
  const written = { input_tokens_details: { cached_tokens: 40, cache_write_tokens: 10 } };
  const withWrites = micros([50, 2], [40, 0.5], [10, 2.5], [30, 10], [20, 12]);
  t.equal(costOf(responsesUsage({ ...usage, ...written }), PRICE), withWrites, 'Responses API, with writes');
});

const FULL: Usage = {
  inputTokens: 100,
  outputTokens: 50,
  cachedTokens: 40,
  cacheWriteTokens: 10,
  longCacheWriteTokens: 4,
  reasoningTokens: 20,
};

t.test('a price that is not set is that of the whole kind', async (t) => {
  const { input, output, cached, cacheWrite } = PRICE as Required<TokenPrices>;
  const cases: [ModelPrice, number][] = [
    [{ input, output }, PLAIN],
    [{ input, output, reasoning: 12 }, micros([100, 2], [30, 10], [20, 12])],
    [{ input, output, cached }, micros([60, 2], [40, 0.5], [50, 10])],
    [{ input, output, cacheWrite }, micros([90, 2], [10, 2.5], [50, 10])],
    [{ input, output, cached: 0 }, micros([60, 2], [50, 10])],
    [{ input: 0, output: 0 }, 0],
  ];
  for (const [price, cost] of cases) t.equal(costOf(FULL, price), cost, JSON.stringify(price));
});

t.test('without a price that is needed, the cost is unknown, and not zero', async (t) => {
  t.equal(costOf(FULL, undefined), undefined);
  t.equal(costOf(FULL, {}), undefined);
  t.equal(costOf(FULL, { input: 2 }), undefined, 'no price of output');
  t.equal(costOf(FULL, { output: 2 }), undefined, 'no price of input');
  t.equal(costOf({ inputTokens: 5, outputTokens: 0 }, { input: 2 }), micros([5, 2]), 'there was no output');
  t.equal(costOf({ inputTokens: 0, outputTokens: 5 }, { output: 2 }), micros([5, 2]), 'there was no input');
  t.equal(costOf({ inputTokens: Number.MAX_VALUE, outputTokens: 0 }, PRICE), undefined, 'a count that cannot be');
  t.equal(sumCosts([1, undefined, 2]), undefined, 'a sum with an unknown cost');
  t.equal(sumCosts([]), 0);
});

t.test('with more input than a bound, all tokens have the prices of the tier', async (t) => {
  const price: ModelPrice = {
    input: 1,
    output: 2,
    tiers: [
      { above: 100, input: 3, output: 4 },
      { above: 1_000, input: 5, output: 6, cached: 1 },
    ],
  };
  const cost = (inputTokens: number) => costOf({ inputTokens, outputTokens: 10, cachedTokens: 50 }, price);
  t.equal(cost(99), micros([99, 1], [10, 2]));
  t.equal(cost(100), micros([100, 1], [10, 2]), 'the bound itself is not above');
  t.equal(cost(101), micros([101, 3], [10, 4]));
  t.equal(cost(1_000), micros([1_000, 3], [10, 4]));
  t.equal(cost(1_001), micros([951, 5], [50, 1], [10, 6]));
});

t.test('costs have no noise of binary fractions', async (t) => {
  t.equal(JSON.stringify(sumCosts([0.1, 0.2])), '0.3');
  t.equal(JSON.stringify(costOf({ inputTokens: 3, outputTokens: 0 }, { input: 0.1 })), '3e-7');
  t.equal(JSON.stringify(costOf({ inputTokens: 1, outputTokens: 0 }, { input: 0.000001 })), '1e-12');
  t.equal(JSON.stringify(costOf({ inputTokens: 1, outputTokens: 0 }, { input: 0.0000004 })), '0');
  t.equal(
    JSON.stringify(costOf({ inputTokens: 1_000_001, outputTokens: 7 }, { input: 0.29, output: 1.1 })),
    '0.29000799',
  );
});

/** A price with at most six decimals, as an integer. */
const millionths = fc.integer({ min: 0, max: 100_000_000 });
const count = fc.integer({ min: 0, max: 1_000_000 });
const anyPrice = fc.record({
  input: millionths,
  output: millionths,
  cached: fc.option(millionths, { nil: undefined }),
  cacheWrite: fc.option(millionths, { nil: undefined }),
  longCacheWrite: fc.option(millionths, { nil: undefined }),
  reasoning: fc.option(millionths, { nil: undefined }),
});
type Prices = typeof anyPrice extends fc.Arbitrary<infer P> ? P : never;
const anyUsage = fc.record({ fresh: count, cached: count, write: count, long: count, text: count, reasoning: count });
type Counts = typeof anyUsage extends fc.Arbitrary<infer P> ? P : never;

const toPrice = (prices: Prices): ModelPrice =>
  Object.fromEntries(Object.entries(prices).flatMap(([kind, n]) => (n === undefined ? [] : [[kind, n / 1e6]])));
const toUsage = ({ fresh, cached, write, long, text, reasoning }: Counts): Usage => ({
  inputTokens: fresh + cached + write + long,
  outputTokens: text + reasoning,
  cachedTokens: cached,
  cacheWriteTokens: write + long,
  longCacheWriteTokens: long,
  reasoningTokens: reasoning,
});

/** Returns the cost in units of 1e-12 USD, without fractions. */
function exactCost(counts: Counts, { input, output, cached = input, cacheWrite = input, ...others }: Prices): bigint {
  const { longCacheWrite = cacheWrite, reasoning = output } = others;
  const parts: [number, number | undefined][] = [
    [counts.fresh, input],
    [counts.cached, cached],
    [counts.write, cacheWrite],
    [counts.long, longCacheWrite],
    [counts.text, output],
    [counts.reasoning, reasoning],
  ];
  return parts.reduce((sum, [tokens, price]) => sum + BigInt(tokens) * BigInt(price ?? 0), 0n);
}

/** Returns a number in decimal notation as an integer of units of 1e-12. Throws if it has further digits. */
function unitsOf(cost: number | undefined): bigint {
  if (cost === undefined) throw new Error('no cost');
  const [digits = '', exponent = '0'] = JSON.stringify(cost).split('e');
  const [whole = '', decimals = ''] = digits.split('.');
  const shift = 12 + Number(exponent) - decimals.length;
  if (shift < 0) throw new Error(`${cost} has more than twelve decimals`);
  return BigInt(whole + decimals) * 10n ** BigInt(shift);
}

t.test('every cost is exact and not negative, and sums of costs are, too', async (t) => {
  const calls = fc.array(fc.tuple(anyUsage, anyPrice), { minLength: 1, maxLength: 5 });
  const property = fc.property(calls, (all) => {
    const costs = all.map(([counts, prices]) => costOf(toUsage(counts), toPrice(prices)));
    const exact = all.map(([counts, prices]) => exactCost(counts, prices));
    const sum = exact.reduce((a, b) => a + b, 0n);
    return exact.every((units, i) => unitsOf(costs[i]) === units) && unitsOf(sumCosts(costs)) === sum;
  });
  t.doesNotThrow(() => fc.assert(property, { seed: SEED, numRuns: 500 }));
});

t.test('a cost is known if, and only if, every token has a price', async (t) => {
  const partial = fc.record({ input: millionths, output: millionths }, { requiredKeys: [] });
  const property = fc.property(anyUsage, partial, (counts, prices) => {
    const usage = toUsage(counts);
    const isKnown =
      (prices.input !== undefined || usage.inputTokens === 0) &&
      (prices.output !== undefined || usage.outputTokens === 0);
    return (costOf(usage, toPrice(prices as Prices)) !== undefined) === isKnown;
  });
  t.doesNotThrow(() => fc.assert(property, { seed: SEED, numRuns: 500 }));
});

/** List prices of the models of recordings in which the provider says what the answer has cost. */
const LIST_PRICES: Readonly<Record<string, ModelPrice>> = {
  'openrouter/tools-comments.sse': { input: 1, output: 5 },
  'openrouter/reasoning.sse': { input: 3, output: 15 },
  'avian/kimi-double-blank-lines.sse': { input: 0.45, output: 2.2, cached: 0.225 },
  'xai/tools-parallel.sse': { input: 0.2, output: 0.5, cached: 0.05 },
};

t.test('recorded answers cost what their providers say', { skip: noRecordings }, async (t) => {
  for (const [file, price] of Object.entries(LIST_PRICES)) {
    const raw = fixtures('openai-sse').find((fixture) => fixture.file === file)?.expected.usage_raw ?? {};
    const { cost, cost_in_usd_ticks: ticks } = raw;
    const expected = typeof ticks === 'number' ? ticks / 1e10 : cost;
    t.ok(Number(expected) > 0, `${file}: ${expected}`);
    t.equal(costOf(openAIUsage(raw), price), expected, file);
  }
});
