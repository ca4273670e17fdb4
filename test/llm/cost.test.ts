import fc from 'fast-check';
import t from 'tap';
import type { ModelPrice } from '../../plugins/config/price-file.ts';
import { commonPrice } from '../../plugins/llm/call-price.ts';
import { sumCosts } from '../../plugins/prices/cost.ts';
import type { AttemptSpan } from '../../plugins/tracing/attempt.ts';
import { NO_SPAN } from '../../plugins/tracing/no-span.ts';
import type { FinishPart, StreamPart, Usage } from '../../providers/types.ts';
import { SEED } from '../providers/random.ts';
import { setUp } from './client.ts';
import { FINISH, fake, SERVER_ERROR, textPart } from './fake-provider.ts';

/** Tests the cost of answers that one target gave, or several. */

const route = { onMidStreamFailure: 'continue' as const };
const USAGE: Usage = { inputTokens: 100, outputTokens: 7, totalTokens: 107 };
const finishes = (usage: Usage | undefined, ...texts: string[]) => [
  ...texts.map(textPart),
  { ...FINISH, ...(usage && { usage }) } as StreamPart,
];
const PRICES: Readonly<Record<string, ModelPrice>> = {
  a: { input: 1, output: 10 },
  b: { input: 2, output: 20 },
  c: { input: 4, output: 40 },
};
const priceOf = ({ provider }: { provider: string }) => PRICES[provider];
const micros = (n: number) => n / 1e6;

t.test('an answer of one target has the cost of its call, and the span has it, too', async (t) => {
  const ends: (FinishPart | undefined)[] = [];
  const span: AttemptSpan = { ...NO_SPAN, end: (finish) => void ends.push(finish) };
  const { generate } = setUp([fake('a', [finishes(USAGE, 'x')])], { priceOf, span });
  const { finish } = await generate();
  t.same(finish?.usage, { ...USAGE, cost: micros(170) });
  t.same(ends, [finish]);
});

t.test('a fallback costs what its own target does; calls that never began cost nothing', async (t) => {
  const { generate } = setUp([fake('a', [[SERVER_ERROR]]), fake('b', [finishes(USAGE, 'x')])], { priceOf });
  t.same((await generate()).finish?.usage, { ...USAGE, cost: micros(340) });
});

t.test('calls that broke off are estimated, each at the price of its target', async (t) => {
  const spans: (FinishPart | undefined)[] = [];
  const span: AttemptSpan = { ...NO_SPAN, end: (finish) => void spans.push(finish) };
  const a = fake('a', [[{ type: 'reasoning', text: '1234' }, textPart('x'.repeat(40)), SERVER_ERROR]]);
  const b = fake('b', [[textPart('x'.repeat(20)), SERVER_ERROR]]);
  const c = fake('c', [finishes(USAGE, 'y')]);
  const { finish } = await setUp([a, b, c], { route, priceOf, span }).generate();
  // a: 100 - 15 in, 11 out. b: 100 - 5 in, 5 out.
  const cost = micros(85 * 1 + 11 * 10 + 95 * 2 + 5 * 20 + 100 * 4 + 7 * 40);
  t.same(finish?.usage, { inputTokens: 280, outputTokens: 23, totalTokens: 303, cost });
  t.equal(spans.at(-1)?.usage?.cost, micros(100 * 4 + 7 * 40), 'the span of the last call has its own cost');
});

t.test('a cost is absent if one call has no price, or the last one has no count', async (t) => {
  const breaks = (name: string) => fake(name, [[textPart('1234'), SERVER_ERROR]]);
  const cases: [name: string, ...Parameters<typeof setUp>[0]][] = [
    ['the only call', fake('x', [finishes(USAGE, 'y')])],
    ['the call that broke off', breaks('x'), fake('b', [finishes(USAGE, 'y')])],
    ['the last call', breaks('a'), fake('x', [finishes(USAGE, 'y')])],
    ['no count of input', breaks('a'), fake('b', [finishes({ outputTokens: 7 }, 'y')])],
    ['no usage', breaks('a'), fake('b', [finishes(undefined, 'y')])],
  ];
  for (const [name, ...providers] of cases) {
    const { finish } = await setUp(providers, { route, priceOf }).generate();
    t.equal(finish?.reason, 'stop', name);
    t.notOk('cost' in (finish?.usage ?? {}), name);
  }
});

t.test('a partial answer of another replica has a price only if all targets have the same', async (t) => {
  const providers = () => [fake('a', [finishes(USAGE, 'y')]), fake('b', [])];
  const partialAnswer = '12345678';
  const same = await setUp(providers(), { route, priceOf: () => ({ input: 1, output: 10 }) }).generate({
    partialAnswer,
  });
  t.same(same.finish?.usage, { inputTokens: 198, outputTokens: 9, totalTokens: 207, cost: micros(198 + 90) });
  const other = await setUp(providers(), { route, priceOf }).generate({ partialAnswer });
  t.same(other.finish?.usage, { inputTokens: 198, outputTokens: 9, totalTokens: 207 });
  const { route: any } = setUp(providers());
  t.equal(
    commonPrice(() => undefined, any),
    undefined,
  );
  const firstOnly = ({ provider }: { provider: string }) => (provider === 'a' ? PRICES.a : undefined);
  t.equal(commonPrice(firstOnly, any), undefined, 'a target without a price');
});

t.test('another service tier has another price, which is not known', async (t) => {
  const costWith = async (options: Record<string, unknown>) => {
    const prompt = { messages: [{ role: 'user' as const, content: 'q' }], options };
    const { finish } = await setUp([fake('a', [finishes(USAGE, 'y')])], { priceOf }).generate({ prompt });
    return finish?.usage?.cost;
  };
  for (const tier of ['auto', 'default', 'standard', null]) {
    t.equal(await costWith({ service_tier: tier }), micros(170), `service_tier: ${tier}`);
  }
  for (const tier of ['priority', 'flex', 'scale', 3]) {
    t.equal(await costWith({ service_tier: tier }), undefined, `service_tier: ${tier}`);
  }
  t.equal(await costWith({ seed: 1 }), micros(170));
  const dropped = setUp([fake('a', [finishes(USAGE, 'y')])], {
    priceOf,
    route: { settings: { drop: ['service_tier'] } },
  });
  const prompt = { messages: [{ role: 'user' as const, content: 'q' }], options: { service_tier: 'flex' } };
  t.equal((await dropped.generate({ prompt })).finish?.usage?.cost, micros(170), 'a tier that is not sent');
});

t.test('the cost of an answer is the sum over its calls, whatever their texts and prices are', async (t) => {
  const prices = fc.array(fc.record({ input: fc.nat(1_000), output: fc.nat(1_000) }), { minLength: 1, maxLength: 4 });
  const lengths = fc.array(fc.nat(300), { minLength: 4, maxLength: 4 });
  const counts = fc.record({ inputTokens: fc.nat(1_000), outputTokens: fc.nat(1_000) });
  const property = fc.asyncProperty(prices, lengths, counts, async (all, texts, usage) => {
    const providers = all.map((_, i) => {
      const text = textPart('x'.repeat((texts[i] ?? 0) + 1));
      return fake(`p${i}`, [i === all.length - 1 ? [text, { ...FINISH, usage } as StreamPart] : [text, SERVER_ERROR]]);
    });
    const { finish } = await setUp(providers, {
      route,
      priceOf: ({ provider }) => all[Number(provider.slice(1))],
    }).generate();
    let later = 0;
    const costs = all
      .map((price, i) => ({ price, tokens: Math.ceil(((texts[i] ?? 0) + 1) / 4), isLast: i === all.length - 1 }))
      .reverse()
      .map(({ price: { input, output }, tokens, isLast }) => {
        if (isLast) return micros(usage.inputTokens * input + usage.outputTokens * output);
        later += tokens;
        return micros(Math.max(0, usage.inputTokens - later) * input + tokens * output);
      });
    return finish?.usage?.cost === sumCosts(costs);
  });
  await t.resolves(fc.assert(property, { seed: SEED, numRuns: 60 }));
});
