import { writeFileSync } from 'node:fs';
import { DefaultChatTransport, readUIMessageStream, type UIMessage } from 'ai';
import OpenAI from 'openai';
import t, { type Test } from 'tap';
import { loadConfig } from '../../plugins/config/load.ts';
import { bearer, captureLog, serve, sha256, until, writeConfig } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { noRedis, startRedis } from '../redis.ts';
import { openStream } from '../replicas.ts';
import { open } from '../sse-client.ts';
import { DONE, type Script, STOP, sse, startUpstream, text } from '../upstream.ts';

/** Tests where clients and operators see what an answer costs. */

const USAGE = {
  prompt_tokens: 100,
  completion_tokens: 50,
  total_tokens: 150,
  prompt_tokens_details: { cached_tokens: 40 },
  completion_tokens_details: { reasoning_tokens: 20 },
};
const answer =
  (usage?: object): Script =>
  ({ response }) => {
    const last = usage === undefined ? '' : `data: ${JSON.stringify({ choices: [], usage })}\n\n`;
    sse(response).end(text('one ') + text('two') + STOP + last + DONE);
  };

const PRICES = {
  'vendor/m': { input_cost_per_token: 2e-6, output_cost_per_token: 1e-5, cache_read_input_token_cost: 5e-7 },
};
/** 60 at 2, 40 at 0.5, 50 at 10 per million. */
const COST = 0.00064;

/** Writes a configuration with a model `m` and a file of prices, and returns its environment. */
function configure(t: Test, url: string, prices: object = PRICES, more = '') {
  const dir = t.testdir({
    'prices.json': JSON.stringify(prices),
    'sluice.yaml': `providers: { vendor: { type: openai-compatible, baseUrl: "${url}/v1" } }
models: [{ name: m, targets: [{ provider: vendor, model: m }] }]\n${more}`,
  });
  return { dir, env: { CONFIG_FILE: `${dir}/sluice.yaml`, PRICES_FILE: `${dir}/prices.json` } };
}

async function setUp(t: Test, script: Script, prices?: object) {
  const upstream = await startUpstream(t, script);
  const { dir, env } = configure(t, upstream.url, prices);
  const { logTo, log } = captureLog();
  const { app, url } = await serve(t, { env, logTo });
  const ended = () =>
    log()
      .split('\n')
      .filter((line) => line.includes('"stream ended"'))
      .map((line) => JSON.parse(line));
  return { upstream, dir, env, app, url, ended };
}

const endOf = async (url: string) => (await (await open(`${url}/ask/stream?question=q`)).until('end')).json;

t.test('the last event, the answer without streaming and the log line have the cost', async (t) => {
  const { url, ended } = await setUp(t, answer(USAGE));
  const usage = {
    inputTokens: 100,
    outputTokens: 50,
    totalTokens: 150,
    cachedTokens: 40,
    reasoningTokens: 20,
    cost: COST,
  };
  t.same((await endOf(url)).usage, usage);
  await until(() => ended().length === 1, 'the stream is logged');
  t.match(ended()[0], { usage, cost: { counted: COST, estimated: 0 } });
});

t.test('an answer without a count, or of a model without a price, has no cost', async (t) => {
  const unpriced = await setUp(t, answer(USAGE), { 'vendor/other': { output_cost_per_token: 1 } });
  const end = await endOf(unpriced.url);
  t.equal(end.usage.inputTokens, 100);
  t.notOk('cost' in end.usage, 'no price');
  const uncounted = await setUp(t, answer());
  t.notOk('usage' in (await endOf(uncounted.url)), 'no count');
});

const REQUEST = { model: 'm', messages: [{ role: 'user' as const, content: 'q' }] };

t.test('the metric has the cost of each key and model, counted or estimated', async (t) => {
  const upstream = await startUpstream(t, async (call) => {
    // Eight characters are two tokens.
    if (upstream.calls.length === 3) sse(call.response).write(text('12345678'));
    else await answer(USAGE)(call);
  });
  const key = (name: string) => `{ name: ${name}, sha256: ${sha256(name)} }`;
  const yaml = `providers:
  a: { type: openai-compatible, baseUrl: "${upstream.url}/v1" }
  b: { type: openai-compatible, baseUrl: "${upstream.url}/v1" }
models:
  - name: m
    onMidStreamFailure: continue
    targets: [{ provider: a, model: m, price: { input: 1, output: 1 } }, { provider: b, model: m, price: { input: 3, output: 3 } }]
  - { name: unpriced, targets: [{ provider: a, model: m }] }
keys: [${key('x')}, ${key('y')}]`;
  const { app, url } = await serve(t, { env: { CONFIG_FILE: writeConfig(t, yaml) } });
  const ask = async (who: string, model: string) => {
    const reading = await open(`${url}/ask/stream`, { headers: bearer(who), body: { question: 'q', model } });
    await reading.until('delta');
    upstream.calls[2]?.response.destroy();
    return (await reading.until('end')).json.usage.cost as number | undefined;
  };
  const counted = (who: string, labels = {}) => metricValue(app, 'sluice_cost_total', { key: who, ...labels });
  const ended = (n: number) =>
    until(async () => (await metricValue(app, 'sluice_generations_total')) === n, 'it is counted');
  t.equal(await ask('x', 'm'), 150 / 1e6);
  t.equal(await ask('y', 'unpriced'), undefined);
  await ended(2);
  t.equal(await counted('x', { model: 'm', basis: 'counted' }), 150 / 1e6);
  t.equal(await counted('y'), 0, 'an unknown cost adds nothing');
  // Two tokens at the price of the first target, and 100 - 2 of input.
  t.equal(await ask('y', 'm'), (100 + 450) / 1e6);
  await ended(3);
  t.equal(await counted('y', { basis: 'estimated' }), 100 / 1e6);
  t.equal(await counted('y', { basis: 'counted' }), 450 / 1e6);
  t.equal(await counted('x'), 150 / 1e6, 'another key');
});

t.test("OpenAI's SDK gets the cost in the usage, as OpenRouter sends it", async (t) => {
  const { url } = await setUp(t, answer(USAGE));
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any' });
  const usage = {
    prompt_tokens: 100,
    completion_tokens: 50,
    total_tokens: 150,
    prompt_tokens_details: { cached_tokens: 40 },
    completion_tokens_details: { reasoning_tokens: 20 },
    cost: COST,
  };
  t.same((await client.chat.completions.create(REQUEST)).usage, usage, 'not streamed');
  const stream = await client.chat.completions.create({
    ...REQUEST,
    stream: true,
    stream_options: { include_usage: true },
  });
  const usages = [];
  for await (const chunk of stream) usages.push(chunk.usage);
  t.same(usages.at(-1), usage, 'streamed, in the last chunk');
  t.ok(usages.slice(0, -1).every((one) => one === null));
  const { url: other } = await setUp(t, answer(USAGE), { 'vendor/other': { output_cost_per_token: 1 } });
  const unpriced = await new OpenAI({ baseURL: `${other}/v1`, apiKey: 'any' }).chat.completions.create(REQUEST);
  t.equal(unpriced.usage?.total_tokens, 150);
  t.notOk('cost' in (unpriced.usage ?? {}), 'absent without a price');
});

t.test('useChat gets the cost in the metadata of the message', async (t) => {
  const { url } = await setUp(t, answer(USAGE));
  const messages: UIMessage[] = [{ id: 'u1', role: 'user', parts: [{ type: 'text', text: 'q' }] }];
  const stream = await new DefaultChatTransport({ api: `${url}/ui/chat` }).sendMessages({
    chatId: 'chat-1',
    messages,
    trigger: 'submit-message',
    messageId: undefined,
    abortSignal: undefined,
  });
  let last: UIMessage | undefined;
  for await (const message of readUIMessageStream({ stream, terminateOnError: true })) last = message;
  t.match(last?.metadata, { model: 'm', usage: { inputTokens: 100, cost: COST } });
});

t.test('a reload takes new prices, and a running answer keeps those with which it began', async (t) => {
  let release = () => {};
  const { url, app, dir, env, upstream } = await setUp(t, async (call) => {
    if (upstream.calls.length === 1) {
      await new Promise<void>((resolve) => {
        release = resolve;
        sse(call.response).write(text('one '));
      });
      call.response.end(`${STOP}data: ${JSON.stringify({ choices: [], usage: USAGE })}\n\n${DONE}`);
    } else await answer(USAGE)(call);
  });
  const running = await open(`${url}/ask/stream?question=q`);
  await running.until('delta');
  writeFileSync(
    `${dir}/prices.json`,
    JSON.stringify({ 'vendor/m': { input_cost_per_token: 0, output_cost_per_token: 1e-6 } }),
  );
  const report = app.reloadConfig(loadConfig(env));
  t.same(
    report.needsRestart.filter((name) => name.startsWith('price')),
    [],
    'no restart is needed',
  );
  t.equal((await endOf(url)).usage.cost, 0.00005);
  release();
  t.equal((await running.until('end')).json.usage.cost, COST);
  const { PRICES_FILE: _, ...without } = env;
  const restarts = app.reloadConfig(loadConfig(without)).needsRestart;
  t.notOk(restarts.some((name) => name.startsWith('price')));
  t.notOk('cost' in (await endOf(url)).usage, 'a file that is no longer named has no prices');
});

t.test(
  'all readers on all replicas get the same cost, which the producer has calculated',
  { skip: noRedis },
  async (t) => {
    const redis = await startRedis(t);
    const upstream = await startUpstream(t, answer(USAGE));
    const priced = configure(t, upstream.url);
    const start = async (env: Record<string, string>) => {
      const replica = await serve(t, { env: { ...env, REDIS_URL: redis.url } });
      await until(() => replica.app.cluster?.connection.isAvailable === true, 'the replica is connected to Redis');
      return replica;
    };
    const a = await start(priced.env);
    // The other replica knows no prices: the cost comes from the log.
    const b = await start({ CONFIG_FILE: priced.env.CONFIG_FILE });
    const reading = await open(`${a.url}/ask/stream?question=q`);
    const { url } = (await reading.until('start')).json as { url: string };
    const end = await reading.until('end');
    t.equal(end.json.usage.cost, COST);
    const [onA, onB] = await Promise.all([a, b].map((replica) => openStream({ ...replica }, url)));
    t.equal((await onA?.until('end'))?.data, end.data, 'a later reader on the same replica');
    t.equal((await onB?.until('end'))?.data, end.data, 'a reader on another replica');
  },
);

t.test('the API reference has the cost in all three APIs', async (t) => {
  const { app } = await setUp(t, answer());
  const { schemas } = (await app.inject('/openapi.json')).json().components;
  t.match(schemas.CompletionUsage.properties.cost, { type: 'number' });
  interface Variant {
    readonly properties: { readonly type: { readonly enum: string[] } };
  }
  const variant = (name: string, type: string) =>
    schemas[name].anyOf.find(({ properties }: Variant) => properties.type.enum[0] === type);
  t.match(variant('StreamEvent', 'end').properties.usage.properties.cost, { type: 'number' });
  const { messageMetadata } = variant('UiMessageChunk', 'finish').properties;
  t.match(messageMetadata.properties.usage.properties.cost, { type: 'number' });
});

t.test(
  'an answer that was stopped has no cost for its readers, and an estimated one in the metric and the log',
  async (t) => {
    const { app, url, upstream, ended } = await setUp(t, ({ response }) => void sse(response).write(text('one ')));
    const reading = await open(`${url}/ask/stream?question=q`);
    const { json } = await reading.until('start');
    await reading.until('delta');
    await fetch(`${url}${json.url}`, { method: 'DELETE' });
    const { json: end } = await reading.until('end');
    t.equal(end.finishReason, 'stopped');
    t.notOk('usage' in end);
    t.equal(upstream.calls.length, 1);
    await until(() => ended().length === 1, 'the stream is logged');
    const [{ tokens, cost }] = ended();
    const { input, output } = tokens.estimated;
    t.ok(input > 0 && output > 0, 'tokens are estimated');
    t.same(cost, { counted: 0, estimated: (input * 2 + output * 10) / 1e6 });
    const labels = { key: '_anonymous', model: 'm' };
    t.equal(await metricValue(app, 'sluice_cost_total', { ...labels, basis: 'estimated' }), cost.estimated);
    t.equal(await metricValue(app, 'sluice_cost_total', { ...labels, basis: 'counted' }), 0);
  },
);
