import { writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { createFileWatch, MAX_FILE_BYTES } from '../../plugins/config/files.ts';
import { loadConfig, readConfig } from '../../plugins/config/load.ts';
import { readConfigInWorker } from '../../plugins/config/load-in-worker.ts';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import { type PriceTable, parsePrices } from '../../plugins/config/price-file.ts';
import { findPrice } from '../../plugins/prices/lookup.ts';
import { build, captureLog, writeConfig } from '../helper.ts';

/** Tests files of prices, in the format of LiteLLM, and the settings of prices. */

/** Entries as the published file has them. */
const FILE = {
  sample_spec: { input_cost_per_token: 0, litellm_provider: 'one of the providers', max_tokens: 'set to max' },
  'gpt-4o': {
    cache_read_input_token_cost: 1.25e-6,
    input_cost_per_token: 2.5e-6,
    input_cost_per_token_batches: 1.25e-6,
    input_cost_per_token_priority: 4.25e-6,
    litellm_provider: 'openai',
    max_input_tokens: 128_000,
    mode: 'chat',
    output_cost_per_token: 1e-5,
    supports_vision: true,
  },
  'azure/gpt-4o': {
    input_cost_per_token: 2.5e-6,
    litellm_provider: 'azure',
    mode: 'chat',
    output_cost_per_token: 1e-5,
  },
  'claude-sonnet-4-5': {
    cache_creation_input_token_cost: 3.75e-6,
    cache_creation_input_token_cost_above_1hr: 6e-6,
    cache_creation_input_token_cost_above_1hr_above_200k_tokens: 1.2e-5,
    cache_creation_input_token_cost_above_200k_tokens: 7.5e-6,
    cache_read_input_token_cost: 3e-7,
    cache_read_input_token_cost_above_200k_tokens: 6e-7,
    input_cost_per_token: 3e-6,
    input_cost_per_token_above_200k_tokens: 6e-6,
    litellm_provider: 'anthropic',
    mode: 'chat',
    output_cost_per_token: 1.5e-5,
    output_cost_per_token_above_200k_tokens: 2.25e-5,
    search_context_cost_per_query: { search_context_size_high: 0.01 },
  },
  'gemini/gemini-2.5-pro': {
    input_cost_per_token: 1.25e-6,
    input_cost_per_token_above_200k_tokens: 2.5e-6,
    input_cost_per_token_above_200k_tokens_priority: 4.5e-6,
    litellm_provider: 'gemini',
    mode: 'chat',
    output_cost_per_token: 1e-5,
    output_cost_per_token_above_200k_tokens: 1.5e-5,
  },
  'gemini-2.5-flash': {
    input_cost_per_token: 3e-7,
    litellm_provider: 'vertex_ai-language-models',
    mode: 'chat',
    output_cost_per_reasoning_token: 2.5e-6,
    output_cost_per_token: 2.5e-6,
  },
  'dashscope/qwen3-max': {
    litellm_provider: 'dashscope',
    mode: 'chat',
    tiered_pricing: [
      { input_cost_per_token: 2.4e-6, output_cost_per_token: 1.2e-5, range: [32_000, 128_000] },
      { input_cost_per_token: 1.2e-6, output_cost_per_token: 6e-6, range: [0, 32_000] },
    ],
  },
  'deepseek/deepseek-v4': {
    input_cost_per_token: 3e-7,
    litellm_provider: 'deepseek',
    mode: 'chat',
    off_peak_pricing: { input_cost_per_token: 1.5e-7, windows: [] },
    output_cost_per_token: 1.2e-6,
  },
  'openai.gpt-oss-120b-1:0': {
    input_cost_per_token: 1.5e-7,
    litellm_provider: 'bedrock_converse',
    mode: 'chat',
    output_cost_per_token: 6e-7,
  },
  'ollama/llama3': { input_cost_per_token: 0, litellm_provider: 'ollama', mode: 'chat', output_cost_per_token: 0 },
  'dall-e-3': { input_cost_per_pixel: 2e-8, litellm_provider: 'openai', mode: 'image_generation' },
  'text-embedding-3-small': { input_cost_per_token: 2e-8, litellm_provider: 'openai', mode: 'embedding' },
  'fireworks_ai/m': {
    input_cost_per_token: 9e-7,
    litellm_provider: 'fireworks_ai',
    mode: 'chat',
    output_cost_per_token: 9e-7,
  },
  'claude-latest': { alias_of: 'claude-sonnet-4-5' },
};

const parse = (entries: object) => parsePrices(JSON.stringify(entries)) as PriceTable;
const priceOf = (table: PriceTable, name: string) => table.entries.get(name)?.price;

t.test('prices are read per million tokens, without noise', async (t) => {
  const table = parse(FILE);
  t.equal(table.skipped, 0);
  t.same(priceOf(table, 'gpt-4o'), { input: 2.5, output: 10, cached: 1.25 });
  t.same(priceOf(table, 'gemini-2.5-flash'), { input: 0.3, output: 2.5, reasoning: 2.5 });
  t.same(priceOf(table, 'ollama/llama3'), { input: 0, output: 0 }, 'zero is a price');
  const odd = parse({ a: { input_cost_per_token: 1.41953125e-7, output_cost_per_token: 1.1e-6 } });
  t.same(priceOf(odd, 'a'), { input: 0.141953125, output: 1.1 });
  const marked = parsePrices(`\ufeff${JSON.stringify(FILE)}`);
  t.equal(marked?.entries.size, table.entries.size, 'a byte order mark changes nothing');
});

t.test('prices above a number of tokens are tiers', async (t) => {
  const table = parse(FILE);
  t.same(priceOf(table, 'claude-sonnet-4-5'), {
    input: 3,
    output: 15,
    cached: 0.3,
    cacheWrite: 3.75,
    longCacheWrite: 6,
    tiers: [{ above: 200_000, input: 6, output: 22.5, cached: 0.6, cacheWrite: 7.5, longCacheWrite: 12 }],
  });
  t.same(priceOf(table, 'gemini/gemini-2.5-pro')?.tiers, [{ above: 200_000, input: 2.5, output: 15 }]);
  const base = { input: 1.2, output: 6 };
  t.same(
    priceOf(table, 'dashscope/qwen3-max'),
    {
      ...base,
      tiers: [
        { above: 0, ...base },
        { above: 32_000, input: 2.4, output: 12 },
      ],
    },
    'a list of ranges, in any order',
  );
  const two = parse({
    a: {
      input_cost_per_token: 1e-6,
      output_cost_per_token: 2e-6,
      cache_read_input_token_cost: 5e-7,
      output_cost_per_token_above_256000_tokens: 4e-6,
      input_cost_per_token_above_128k_tokens: 3e-6,
      input_cost_per_token_above_128k_characters: 9e-6,
      input_cost_per_token_above_64k_images: 9e-6,
    },
  });
  t.same(
    priceOf(two, 'a')?.tiers,
    [
      { above: 128_000, input: 3, output: 2, cached: 0.5 },
      { above: 256_000, input: 3, output: 4, cached: 0.5 },
    ],
    'a price that a tier does not name stays that of the tier below',
  );
  const gap = parse({ a: { tiered_pricing: [{ range: [10, 20], input_cost_per_token: 1e-6 }] } });
  t.same(priceOf(gap, 'a'), { tiers: [{ above: 10, input: 1 }] }, 'below the first range no price is known');
});

t.test('entries without a price of tokens are ignored, and wrong ones are counted', async (t) => {
  const table = parse(FILE);
  const ignored = ['sample_spec', 'dall-e-3', 'text-embedding-3-small', 'claude-latest', 'deepseek/deepseek-v4'];
  for (const name of ignored) t.equal(table.entries.has(name), false, name);
  const price = { output_cost_per_token: 1e-6 };
  const wrong: Record<string, unknown> = {
    'a text': { input_cost_per_token: '1e-6', ...price },
    negative: { input_cost_per_token: -1e-6, ...price },
    'per million, in the wrong unit': { input_cost_per_token: 2.5, ...price },
    'a list': { input_cost_per_token: [1e-6], ...price },
    'a wrong tier': { input_cost_per_token: 1e-6, input_cost_per_token_above_200k_tokens: 'x', ...price },
    'tiers that are no list': { tiered_pricing: {} },
    'a tier without a range': { tiered_pricing: [price] },
    'a range below zero': { tiered_pricing: [{ range: [-1, 9], ...price }] },
    'a range that is no number': { tiered_pricing: [{ range: ['0'], ...price }] },
    'no object': 3,
    nothing: null,
  };
  const { entries, skipped } = parse({ ...wrong, good: price, __proto__: null, constructor: price });
  t.equal(skipped, Object.keys(wrong).length);
  t.same([...entries.keys()], ['good', 'constructor']);
  for (const [name, entry] of Object.entries(wrong)) t.equal(parse({ [name]: entry }).skipped, 1, name);
  t.equal(parse({ a: { input_cost_per_token: null, ...price } }).skipped, 0, 'null is no price');
});

t.test('texts that are no object of models have no prices', async (t) => {
  for (const text of ['', '[]', '3', 'null', '{', '"gpt-4o"', '['.repeat(1_000_000)]) {
    t.equal(parsePrices(text), undefined, text.slice(0, 20));
  }
});

t.test('a model is found by the type of its provider and its upstream name', async (t) => {
  const table = parse(FILE);
  const find = (type: string, model: string, provider = 'it') => findPrice(table, { provider, model }, type)?.input;
  const cases: [type: string, model: string, input: number | undefined, provider?: string][] = [
    ['openai', 'gpt-4o', 2.5],
    ['azure', 'gpt-4o', 2.5],
    ['anthropic', 'claude-sonnet-4-5', 3],
    ['gemini', 'gemini-2.5-pro', 1.25],
    ['vertex', 'gemini-2.5-flash', 0.3],
    ['bedrock', 'openai.gpt-oss-120b-1:0', 0.15],
    ['dashscope', 'qwen3-max', 1.2],
    ['ollama', 'llama3', 0],
    ['openai-compatible', 'm', 0.9, 'fireworks_ai'],
    // The names of others.
    ['openai', 'claude-sonnet-4-5', undefined],
    ['gemini', 'gemini-2.5-flash', undefined],
    ['vllm', 'gpt-4o', undefined],
    ['openai-compatible', 'gpt-4o', undefined],
    ['openai-compatible', 'm', undefined],
    ['openai', 'gpt-4', undefined],
    ['openai', 'GPT-4o', undefined],
  ];
  for (const [type, model, input, provider] of cases) t.equal(find(type, model, provider), input, `${type}, ${model}`);
  const both = parse({
    'openai/x': { litellm_provider: 'openai', input_cost_per_token: 1e-6 },
    x: { litellm_provider: 'openai', input_cost_per_token: 2e-6 },
  });
  t.equal(findPrice(both, { provider: 'p', model: 'x' }, 'openai')?.input, 1, 'the name with the provider is first');
});

const priced = (t: Test, yaml: string, prices?: object | string) => {
  const dir = t.testdir({
    'sluice.yaml': `providers: { o: { type: openai, apiKeys: [k] }, v: { type: vllm } }\n${yaml}`,
    'prices.json': typeof prices === 'string' ? prices : JSON.stringify(prices ?? FILE),
  });
  return { dir, env: { CONFIG_FILE: `${dir}/sluice.yaml` } };
};
const MODELS = 'models: [{ name: m, targets: [{ provider: o, model: gpt-4o }, { provider: v, model: x }] }]';

t.test('the price of a target wins over that of its model, and this one over the file', async (t) => {
  const { dir, env } = priced(
    t,
    `models:
  - { name: file, targets: [{ provider: o, model: gpt-4o }, { provider: v, model: gpt-4o }] }
  - { name: model, price: { input: 1, output: 2 }, targets: [{ provider: o, model: gpt-4o }] }
  - name: target
    price: { input: 1, output: 2 }
    targets: [{ provider: o, model: gpt-4o, price: { output: 0.4 } }, { provider: v, model: y }]
  - { name: input, price: { input: 3 }, targets: [{ provider: v, model: y }] }`,
  );
  const app = await build(t, { env: { ...env, PRICES_FILE: `${dir}/prices.json` } });
  const find = (model: string) => {
    const route: ModelRoute = app.llm.route(model);
    return route.targets.map((target) => app.prices.find(target, route));
  };
  t.same(find('file'), [{ input: 2.5, output: 10, cached: 1.25 }, undefined]);
  t.same(find('model'), [{ input: 1, output: 2 }]);
  t.same(find('input'), [{ input: 3 }]);
  t.same(find('target'), [{ output: 0.4 }, { input: 1, output: 2 }]);
});

t.test('wrong prices and files are problems of the configuration', async (t) => {
  const price = (value: string) => MODELS.replace('name: m,', `name: m, price: ${value},`);
  const cases: [yaml: string, problem: RegExp][] = [
    [price('{}'), /^models\.0\.price: set input, output, or both$/],
    [price('{ cached: 1 }'), /^models\.0\.price: set input, output, or both$/],
    [price('{ input: -1 }'), /^models\.0\.price\.input: expected number to be greater or equal to 0/],
    [price('{ input: 1000001 }'), /^models\.0\.price\.input: expected number to be less or equal to 1000000/],
    [price('{ input: "1" }'), /^models\.0\.price\.input: expected number/],
    [price('{ input: .inf }'), /^models\.0\.price\.input: /],
    [price('{ input: .nan }'), /^models\.0\.price\.input: /],
    [price('{ input: 1, perImage: 1 }'), /^models\.0\.price\.perImage: Unexpected property/],
    [price('3'), /^models\.0\.price: /],
    [
      MODELS.replace('model: x', 'model: x, price: { reasoning: 1 }'),
      /^models\.0\.targets\.1\.price: set input, output/,
    ],
    [`${MODELS}\npriceTable: {}`, /^priceTable: Unexpected property$/],
    [`${MODELS}\npricesFile: ""`, /^pricesFile: /],
    [`${MODELS}\npricesFile: [a]`, /^pricesFile: /],
    [`${MODELS}\npricesFile: /nowhere/prices.json`, /^pricesFile: file not found$/],
    [`${MODELS}\npricesFile: ${import.meta.dirname}`, /^pricesFile: cannot be read \(EISDIR\)$/],
  ];
  for (const [yaml, problem] of cases) {
    const { config, problems } = readConfig(priced(t, yaml).env);
    t.equal(config, undefined, yaml);
    t.equal(problems.length, 1, `one problem: ${problems}`);
    t.match(problems[0], problem);
  }
  const files: [content: string, problem: RegExp][] = [
    ['{', /^PRICES_FILE: not valid JSON; must be in the format of LiteLLM/],
    ['[]', /^PRICES_FILE: not valid JSON/],
    ['{}', /^PRICES_FILE: the file has no prices; must be in the format of LiteLLM/],
    [' '.repeat(MAX_FILE_BYTES + 1), /^PRICES_FILE: the file has more than 16777216 bytes$/],
  ];
  for (const [content, problem] of files) {
    const { dir, env } = priced(t, MODELS, content);
    const { config, problems } = readConfig({ ...env, PRICES_FILE: `${dir}/prices.json` });
    t.equal(config, undefined);
    t.equal(problems.length, 1);
    t.match(problems[0], problem);
  }
});

t.test('the path may be in the file, and the variable wins', async (t) => {
  const { dir, env } = priced(t, '');
  const yaml = `providers: { o: { type: openai, apiKeys: [k] }, v: { type: vllm } }\n${MODELS}\npricesFile: ${dir}/prices.json`;
  writeFileSync(`${dir}/sluice.yaml`, yaml);
  const { priceTable } = loadConfig(env);
  t.equal(priceTable?.entries.get('gpt-4o')?.price.input, 2.5);
  writeFileSync(`${dir}/other.json`, JSON.stringify({ x: { output_cost_per_token: 1e-6 } }));
  const other = loadConfig({ ...env, PRICES_FILE: `${dir}/other.json` });
  t.same([...(other.priceTable?.entries.keys() ?? [])], ['x']);
});

t.test('a reload reads the prices in its own thread', async (t) => {
  const { dir, env } = priced(t, MODELS, { ...FILE, wrong: 3 });
  const variables = { ...env, PRICES_FILE: `${dir}/prices.json` };
  const { config, files } = await readConfigInWorker(variables);
  t.same(config?.priceTable, loadConfig(variables).priceTable);
  t.equal(config?.priceTable?.entries.size, 9);
  t.ok(`${dir}/prices.json` in files, 'and looks at the file afterwards');
});

t.test('a file that has become too large is reported, and is not read by the watch', async (t) => {
  const { dir, env } = priced(t, MODELS);
  const path = `${dir}/prices.json`;
  const { files } = readConfig({ ...env, PRICES_FILE: path });
  t.ok(path in files, 'the watch looks at the file');
  const watch = createFileWatch();
  t.same(await watch({ [path]: '' }), { [path]: files[path] });
  writeFileSync(path, ' '.repeat(MAX_FILE_BYTES + 1));
  t.same(await watch({ [path]: '' }), { [path]: 'EFBIG' });
  t.equal(readConfig({ ...env, PRICES_FILE: path }).files[path], 'EFBIG', 'a reload has the same digest');
});

t.test('wrong entries are reported in one line at the start', async (t) => {
  const wrong = { output_cost_per_token: 'x' };
  const { dir, env } = priced(t, MODELS, { ...FILE, a: wrong, b: wrong });
  const { logTo, log } = captureLog();
  await build(t, { env: { ...env, PRICES_FILE: `${dir}/prices.json` }, logTo });
  const lines = log()
    .split('\n')
    .filter((line) => line.includes('wrong entries'));
  t.equal(lines.length, 1);
  t.match(JSON.parse(lines[0] ?? '{}'), { level: 40, skipped: 2, models: 9 });
  const quiet = captureLog();
  const right = priced(t, MODELS);
  await build(t, { env: { ...right.env, PRICES_FILE: `${right.dir}/prices.json` }, logTo: quiet.logTo });
  t.notMatch(quiet.log(), /wrong entries/, 'no line without one');
});

t.test('a service without prices has none', async (t) => {
  const app = await build(t, {
    env: { CONFIG_FILE: writeConfig(t, `providers: { o: { type: openai, apiKeys: [k], models: [gpt-4o] } }`) },
  });
  const route = app.llm.route('o/gpt-4o');
  t.equal(app.prices.find(route.targets[0], route), undefined);
});
