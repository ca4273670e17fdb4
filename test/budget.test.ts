import OpenAI from 'openai';
import t, { type Test } from 'tap';
import { loadConfig } from '../plugins/config/load.ts';
import { bearer, captureLog, serve, sha256, until, writeConfig } from './helper.ts';
import { postJson } from './post-json.ts';
import { open } from './sse-client.ts';
import { DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** Budgets as clients and operators see them. Each answer costs 1 USD. */

const PRICE = '{ input: 500000, output: 500000 }';
const USAGE = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } })}\n\n`;
const QUESTION = { question: 'q', maxTokens: 1 };
const CHAT = { messages: [{ role: 'user' as const, content: 'q' }], max_tokens: 1 };

const entry = (name: string, more = '') => `{ name: ${name}, sha256: ${sha256(name)}${more} }`;
const budget = (amount: number, period = 'day') => `, budget: { period: ${period}, amount: ${amount} }`;

const yamlOf = (url: string, more: string) => `
providers: { p: { type: openai-compatible, baseUrl: "${url}/v1", models: '*' } }
models:
  - { name: m, price: ${PRICE}, targets: [{ provider: p, model: m }] }
  - { name: unpriced, targets: [{ provider: p, model: x }] }
  - { name: half, targets: [{ provider: p, model: m, price: ${PRICE} }, { provider: p, model: x }] }
  - { name: output, targets: [{ provider: p, model: m, price: { output: 1 } }] }
  - { name: flex, price: ${PRICE}, defaults: { service_tier: flex }, targets: [{ provider: p, model: m }] }
  - { name: dropped, price: ${PRICE}, drop: [service_tier], targets: [{ provider: p, model: m }] }
${more}`;

async function setUp(t: Test, keys: string) {
  const upstream = await startUpstream(t, ({ response }) => void sse(response).end(text('x') + STOP + USAGE + DONE));
  const { logTo, log } = captureLog();
  const env = { CONFIG_FILE: writeConfig(t, yamlOf(upstream.url, keys)), DEFAULT_MODEL: 'm' };
  const { app, url } = await serve(t, { env, logTo });
  const ask = async (key: string, body: object = QUESTION) => {
    const response = await postJson(`${url}/ask/stream`, body, bearer(key));
    const answer = await response.text();
    await until(() => app.streams.active === 0, 'the answer has ended');
    return { status: response.status, headers: response.headers, answer };
  };
  const ticketOf = async (key: string) => {
    const response = await postJson(`${url}/tickets`, {}, bearer(key));
    return ((await response.json()) as { ticket: string }).ticket;
  };
  return { upstream, app, url, log, ask, ticketOf };
}

/** Sets `Date.now` until the test ends. */
function dateAt(t: Test, date: string): (date: string) => void {
  let now = Date.parse(date);
  t.intercept(Date, 'now', { value: () => now, configurable: true, writable: true });
  return (next) => {
    now = Date.parse(next);
  };
}

t.test('past its budget every client gets 429 with the time of the renewal, and answers after it', async (t) => {
  const setDate = dateAt(t, '2026-11-30T22:00:00Z');
  const keys = `keys: [${entry('daily', budget(2))}, ${entry('monthly', budget(1, 'month'))}, ${entry('other')}]`;
  const { app, url, ask, ticketOf } = await setUp(t, keys);
  t.equal((await ask('daily')).status, 200);
  t.equal((await ask('daily')).status, 200);
  const message = 'The budget of this day is used up; it is renewed at 2026-12-01T00:00:00Z.';
  const refused = await ask('daily');
  t.equal(refused.status, 429);
  t.equal(refused.headers.get('retry-after'), '7200');
  t.match(JSON.parse(refused.answer), { error: { code: 'rate_limited', message } });
  t.equal((await ask('other')).status, 200, 'another key');

  const event = await open(`${url}/ask/stream?question=q&ticket=${await ticketOf('daily')}`);
  t.equal(event.response.statusCode, 200);
  t.match((await event.until('error')).json, {
    ...{ type: 'error', code: 'rate_limited', message },
    ...{ retryable: true, retryAfter: 7_200 },
  });

  const client = (key: string) => new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
  const requests = () =>
    app.metrics.requests.get().then(({ values }) => values.filter(({ labels }) => labels.status === '429'));
  const before = (await requests()).reduce((sum, { value }) => sum + value, 0);
  const error = await client('daily')
    .chat.completions.create({ model: 'm', ...CHAT })
    .then(
      () => undefined,
      (error: InstanceType<typeof OpenAI.APIError>) => error,
    );
  t.match(error, { status: 429, code: 'rate_limited', type: 'rate_limit_error' });
  t.equal(error?.headers?.get('x-should-retry'), 'false', 'an SDK would retry within seconds');
  t.equal(
    (await requests()).reduce((sum, { value }) => sum + value, 0),
    before + 1,
    'the SDK has not retried',
  );

  t.equal((await ask('monthly')).status, 200);
  const month = await ask('monthly');
  t.match(JSON.parse(month.answer), { error: { message: /of this month .* 2026-12-01T00:00:00Z/ } });
  setDate('2026-12-01T00:00:00Z');
  t.equal((await ask('daily')).status, 200, 'the next day');
  t.equal((await ask('monthly')).status, 200, 'the next month');
  const longest = await ask('monthly');
  t.equal(longest.headers.get('retry-after'), '2147483', 'as many seconds as a timer of a page takes, for 31 days');
});

t.test('a changed amount or period applies at once', async (t) => {
  const { app, ask } = await setUp(t, `keys: [${entry('a', budget(1))}]`);
  const reload = (changed: { period: 'day' | 'month'; amount: number } | undefined) => {
    const [key] = app.config.keys;
    const { budget: _, ...rest } = key ?? { name: '', sha256: '' };
    app.reloadConfig({ ...app.config, keys: [{ ...rest, ...(changed && { budget: changed }) }] });
  };
  const status = async () => (await ask('a')).status;
  t.same([await status(), await status()], [200, 429]);
  reload({ period: 'day', amount: 2 });
  t.same([await status(), await status()], [200, 429], 'what was used still counts');
  reload({ period: 'month', amount: 1 });
  t.same([await status(), await status()], [200, 429], 'a month has its own count');
  reload(undefined);
  t.same([await status(), await status()], [200, 200], 'no budget');
});

t.test('keyDefaults give every key a budget of its own', async (t) => {
  const yaml = `keys: [${entry('a')}, ${entry('b')}, ${entry('rich', budget(100))}]\nkeyDefaults: { budget: { period: day, amount: 1 } }`;
  const { ask } = await setUp(t, yaml);
  const statuses: number[] = [];
  for (const key of ['a', 'a', 'b', 'b', 'rich', 'rich']) statuses.push((await ask(key)).status);
  t.same(statuses, [200, 429, 200, 429, 200, 200]);
});

t.test('a model without a price refuses keys with a budget, and only them', async (t) => {
  const { upstream, url, ask, ticketOf } = await setUp(t, `keys: [${entry('a', budget(100))}, ${entry('free')}]`);
  for (const model of ['unpriced', 'half', 'output', 'flex', 'p/x']) {
    const { status, answer } = await ask('a', { ...QUESTION, model });
    t.equal(status, 403, model);
    t.match(JSON.parse(answer), {
      error: {
        code: 'forbidden',
        message: `The model ${model} has no price; a key with a budget cannot use it. Set models[].price or PRICES_FILE.`,
      },
    });
    t.equal((await ask('free', { ...QUESTION, model })).status, 200, `${model} without a budget`);
  }
  t.equal(upstream.calls.length, 5);
  const page = await fetch(`${url}/ask/stream?question=q&model=unpriced&ticket=${await ticketOf('a')}`, {
    headers: { accept: 'text/event-stream' },
  });
  t.equal(page.status, 403);
  t.match(await page.json(), { error: { message: 'This model cannot be used here; use another one.' } });
});

t.test('a service_tier whose price is unknown is refused with a budget', async (t) => {
  const { url, ask } = await setUp(t, `keys: [${entry('a', budget(100))}, ${entry('free')}]`);
  const send = (key: string, more: object) =>
    postJson(`${url}/v1/chat/completions`, { model: 'm', ...CHAT, ...more }, bearer(key));
  const refused = await send('a', { service_tier: 'priority' });
  t.equal(refused.status, 400);
  t.match(await refused.json(), {
    error: {
      param: 'service_tier',
      message: 'Leave out service_tier: its price is unknown, and this key has a budget.',
    },
  });
  for (const [key, more] of [
    ['a', { service_tier: 'default' }],
    ['a', { service_tier: 'auto' }],
    ['a', { service_tier: 'priority', model: 'dropped' }],
    ['free', { service_tier: 'priority' }],
  ] as const) {
    t.equal((await send(key, more)).status, 200, `${key} ${JSON.stringify(more)}`);
  }
  t.equal(
    (await send('a', { service_tier: 'priority', model: 'unpriced' })).status,
    403,
    'the model has no price at all',
  );
  t.equal((await ask('a')).status, 200);
});

t.test('warnings name models without a price, and say that memory is lost at a restart', async (t) => {
  const { app, log } = await setUp(t, `keys: [${entry('a')}]`);
  const warnings = () => {
    const lines = log()
      .split('\n')
      .filter((line) => line.includes('budget'));
    return lines.map((line) => JSON.parse(line)).filter(({ level }) => level === 40);
  };
  t.same(warnings(), [], 'without a budget');
  const [key] = app.config.keys;
  if (!key) throw new Error('no key');
  app.reloadConfig({ ...app.config, keys: [{ ...key, budget: { period: 'day', amount: 1 } }] });
  t.match(warnings(), [{ models: ['unpriced', 'half', 'output', 'flex'] }, { msg: /REDIS_URL/ }]);
  const models = app.config.models.filter(({ name }) => name === 'm');
  app.reloadConfig({ ...app.config, models, keyDefaults: { budget: { period: 'day', amount: 1 } } });
  t.equal(warnings().length, 3, 'all models have a price');
  const started = await setUp(t, `keys: [${entry('a', budget(1))}]`);
  t.match(started.log(), /models without a price cannot be used with a budget/);
  t.match(started.log(), /budgets are kept in memory/);
});

t.test('a wrong budget is an error', async (t) => {
  const problems = (more: string) => {
    try {
      loadConfig({ CONFIG_FILE: writeConfig(t, yamlOf('http://127.0.0.1:1', `keys: [${entry('a', more)}]`)) });
      return 'none';
    } catch (error) {
      return (error as Error).message;
    }
  };
  t.equal(problems(budget(0.01)), 'none');
  t.equal(problems(budget(1_000_000, 'month')), 'none');
  t.match(problems(budget(0)), /keys\.0\.budget\.amount/);
  t.match(problems(budget(-1)), /keys\.0\.budget\.amount/);
  t.match(problems(budget(1_000_001)), /keys\.0\.budget\.amount/);
  t.match(problems(budget(1, 'week')), /keys\.0\.budget\.period/);
  t.match(problems(', budget: { amount: 1 }'), /keys\.0\.budget/);
  t.match(problems(', budget: { period: day, amount: 1, per: 2 }'), /budget/);
});
