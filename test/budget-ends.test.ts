import t, { type Test } from 'tap';
import { serve, sha256, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { postJson } from './post-json.ts';
import { runServer } from './process.ts';
import { noRedis, startRedis } from './redis.ts';
import { deltaText, open, type Reading } from './sse-client.ts';
import { type Call, DONE, type Script, STOP, sse, startUpstream, text } from './upstream.ts';

/** Tests the charge of each end of an answer to a budget, in this process and in Redis. */

const AMOUNT = 100;
/** Three tokens of the question, and `maxTokens`, at the prices of the first target. */
const ESTIMATE = 3 * 0.0001 + 100 * 0.001;
const TOKEN = { input: 0.0001, output: 0.001 };
const USAGE = { prompt_tokens: 10, completion_tokens: 20, total_tokens: 30 };
const WHOLE = 10 * TOKEN.input + 20 * TOKEN.output;

const last = (usage: object) => `data: ${JSON.stringify({ choices: [], usage })}\n\n`;
const answer = ({ response }: Call, usage: object) => sse(response).end(text('x') + STOP + last(usage) + DONE);
const fail = ({ response }: Call, status: number) =>
  response.writeHead(status, { 'content-type': 'application/json' }).end('{"error":{"message":"no"}}');
/** Two tokens, and no end. */
const begin = ({ response }: Call) => sse(response).write(text('12345678'));

interface End {
  readonly name: string;
  readonly model?: string;
  readonly usd: number;
  /** Plays the n-th call of the question. */
  readonly play: (call: Call, n: number) => unknown;
  /** Called when the reader has the first text. */
  readonly afterDelta?: (service: Service, reading: Reading, key: string) => unknown;
}

const ENDS: readonly End[] = [
  { name: 'whole', usd: WHOLE, play: (call) => answer(call, USAGE) },
  {
    name: 'longer than its estimate',
    usd: 0.001 + 5,
    play: (call) => answer(call, { ...USAGE, completion_tokens: 5_000 }),
  },
  { name: 'without a count', usd: ESTIMATE, play: ({ response }) => sse(response).end(text('x') + STOP + DONE) },
  {
    name: 'with a count that contradicts itself',
    usd: ESTIMATE,
    play: (call) => answer(call, { ...USAGE, prompt_tokens_details: { cached_tokens: 50 } }),
  },
  { name: 'left', usd: ESTIMATE, play: begin, afterDelta: (_, reading) => reading.cut() },
  {
    name: 'stopped',
    usd: ESTIMATE,
    play: begin,
    async afterDelta({ url }, reading, key) {
      const { stream } = reading.events[0]?.json ?? {};
      await fetch(`${url}/streams/${stream}/stop`, { method: 'POST', headers: { authorization: `Bearer ${key}` } });
    },
  },
  {
    name: 'revoked',
    usd: ESTIMATE,
    play: begin,
    afterDelta: ({ app }, _, key) =>
      app.reloadConfig({ ...app.config, keys: app.config.keys.filter(({ name }) => name !== key) }),
  },
  { name: 'refused', usd: 0, play: (call) => fail(call, 400) },
  { name: 'failed before the first part', usd: 0, play: (call) => fail(call, 500) },
  {
    name: 'timed out before the first part',
    model: 'hasty',
    usd: ESTIMATE,
    play: ({ response }) => sse(response).flushHeaders(),
  },
  { name: 'cut after the first part', usd: ESTIMATE, play: begin, afterDelta: (_, reading) => cutUpstream(reading) },
  {
    name: 'of the second target',
    model: 'two',
    usd: 2 * WHOLE,
    play: (call, n) => (n === 1 ? fail(call, 500) : answer(call, USAGE)),
  },
  {
    name: 'continued by the second target',
    model: 'two',
    // The first one had two tokens of output, and the input without them.
    usd: 8 * TOKEN.input + 2 * TOKEN.output + 2 * WHOLE,
    play: (call, n) => (n === 1 ? begin(call) : answer(call, USAGE)),
    afterDelta: (_, reading) => cutUpstream(reading),
  },
];

const running = new WeakMap<Reading, Call>();
const cutUpstream = (reading: Reading) => running.get(reading)?.response.destroy();
/** Ten characters, so that each has three tokens. */
const questionOf = (i: number) => `question${String(i).padStart(2, '0')}`;
const keyOf = (name: string) => name.replaceAll(' ', '-');

/** Returns a configuration with a key of this name for each end. */
function configOf(t: Test, url: string, keys: readonly string[]): string {
  const provider = (path: string, more = '') => `{ type: openai-compatible, baseUrl: "${url}/${path}/v1"${more} }`;
  const first = '{ provider: a, model: m, price: { input: 100, output: 1000 } }';
  const entries = keys.map(
    (name) => `{ name: ${name}, sha256: ${sha256(name)}, budget: { period: day, amount: ${AMOUNT} } }`,
  );
  return writeConfig(
    t,
    `providers: { a: ${provider('a')}, b: ${provider('b')}, c: ${provider('c', ', apiKeys: [k]')} }
models:
  - { name: one, targets: [${first}] }
  - { name: steady, onMidStreamFailure: continue, targets: [${first}] }
  - { name: locked, price: { input: 1, output: 1 }, targets: [{ provider: c, model: m }] }
  - { name: hasty, firstTokenMs: 100, targets: [${first}] }
  - name: two
    onMidStreamFailure: continue
    targets: [${first}, { provider: b, model: m, price: { input: 200, output: 2000 } }]
keys: [${[...keys, 'other'].map((name) => entries[keys.indexOf(name)] ?? `{ name: ${name}, sha256: ${sha256(name)} }`).join(', ')}]`,
  );
}

type Service = Awaited<ReturnType<typeof serve>>;

/** Returns true if a question of this cost would be accepted now. */
async function fits({ app }: Service, key: string, usd: number): Promise<boolean> {
  const identity = { owner: `key:${key}`, budget: { period: 'day' as const, amount: AMOUNT } };
  const prompt = { messages: [{ role: 'user' as const, content: 'ab' }], maxTokens: 1 };
  const reserved = app.limits.reserveGeneration(identity, prompt, [{ input: usd * 1e6, output: 0 }]);
  return reserved.then(
    ({ settle }) => {
      settle({ totalTokens: 0 }, 0, () => 0);
      return true;
    },
    () => false,
  );
}

async function assertCharged(t: Test, service: Service, key: string, usd: number): Promise<void> {
  // Redis has what the ends have sent.
  await service.app.cluster?.connection.run((client) => client.ping());
  t.equal(await fits(service, key, AMOUNT - usd), true, `${key}: no more than ${usd} is charged`);
  if (usd > 0) t.equal(await fits(service, key, AMOUNT - usd + 1e-9), false, `${key}: no less than ${usd} is charged`);
}

async function testEnds(t: Test, env: Record<string, string>): Promise<void> {
  const calls = new Map<string, Call[]>();
  const script: Script = async (call) => {
    const { messages } = JSON.parse(call.body);
    if (call.request.url?.startsWith('/c/')) return void fail(call, 401);
    const name = ENDS.find((_, i) => messages[0].content === questionOf(i))?.name ?? '';
    const before = calls.get(name) ?? [];
    calls.set(name, [...before, call]);
    await ENDS.find((one) => one.name === name)?.play(call, before.length + 1);
  };
  const upstream = await startUpstream(t, script);
  const keys = [...ENDS.map(({ name }) => keyOf(name)), 'repeated', 'locked'];
  const service = await serve(t, {
    env: { CONFIG_FILE: configOf(t, upstream.url, keys), TICKET_SECRET: 'x'.repeat(32), ...env },
  });
  if (env.REDIS_URL) await until(() => service.app.cluster?.connection.isAvailable === true, 'Redis is connected');

  for (const [i, { name, model = 'one', afterDelta }] of ENDS.entries()) {
    const key = keyOf(name);
    const body = { question: questionOf(i), model, maxTokens: 100 };
    const reading = await open(`${service.url}/ask/stream`, { headers: { authorization: `Bearer ${key}` }, body });
    if (afterDelta) {
      await reading.until('delta');
      const [call] = calls.get(name) ?? [];
      if (call) running.set(reading, call);
      if (name === 'left')
        t.equal(await fits(service, key, AMOUNT - 0.1), false, 'the estimate is charged while it runs');
      await afterDelta(service, reading, key);
    }
    await reading.ended;
    await until(() => service.app.streams.active === 0, `${name}: the answer has ended`);
  }
  for (const { name, usd } of ENDS) await assertCharged(t, service, keyOf(name), usd);

  const body = { question: questionOf(0), model: 'one' };
  const headers = { authorization: 'Bearer repeated', 'idempotency-key': 'k' };
  const post = () => postJson(`${service.url}/streams`, body, headers);
  for (const { ok } of [...(await Promise.all([post(), post(), post()])), await post()]) t.ok(ok);
  await until(() => service.app.streams.active === 0, 'the answer has ended');
  await assertCharged(t, service, 'repeated', WHOLE);

  const before = upstream.calls.length;
  for (let i = 0; i < 2; i++) {
    const question = { question: 'q', model: 'locked' };
    await (await postJson(`${service.url}/ask/stream`, question, { authorization: 'Bearer locked' })).text();
  }
  await until(() => service.app.streams.active === 0, 'both have ended');
  t.equal(upstream.calls.length, before + 1, 'the second one reached no provider: the key of the only one is refused');
  await assertCharged(t, service, 'locked', 0);
}

t.jobs = 3;
t.test('ends in this process', (t) => testEnds(t, {}));
t.test('ends with Redis', { skip: noRedis }, async (t) => testEnds(t, { REDIS_URL: (await startRedis(t)).url }));

t.test('an answer whose replica died is settled by another one', { skip: noRedis, timeout: 60_000 }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, (call) => void begin(call));
  const env = {
    CONFIG_FILE: configOf(t, upstream.url, ['killed', 'lost']),
    REDIS_URL: redis.url,
    TICKET_SECRET: 'x'.repeat(32),
  };
  const [a, b] = await Promise.all([runServer(t, env), serve(t, { env })]);
  await until(() => b.app.cluster?.connection.isAvailable === true, 'Redis is connected');
  const ask = async (key: string, model: string) => {
    const headers = { authorization: `Bearer ${key}` };
    const body = { question: questionOf(0), model, maxTokens: 100, resumable: true };
    const local = await open(`${a.url}/ask/stream`, { headers, body });
    const { json } = await local.until('start');
    const reading = await open(`${b.url}${json.url}`);
    await until(() => deltaText(reading) === '12345678', 'B reads the answer');
    return reading;
  };
  const continued = await ask('killed', 'two');
  const lost = await ask('lost', 'one');
  a.child.kill('SIGKILL');
  await lost.until('error');
  const call = await upstream.call(3);
  call.response.end(text('x') + STOP + last(USAGE) + DONE);
  await continued.until('end');
  await until(() => b.app.streams.active === 0, 'the answer has ended');
  t.equal(await metricValue(b.app, 'sluice_takeovers_total'), 2);
  await assertCharged(t, b, 'lost', ESTIMATE);
  // The targets have different prices, so that the cost before the takeover is unknown: the highest one is charged.
  await assertCharged(t, b, 'killed', Number((3 * 0.0002 + 100 * 0.002).toFixed(9)));
});

t.test('an answer that is handed over is settled by the replica that ends it', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, (call) => void begin(call));
  const env = {
    CONFIG_FILE: configOf(t, upstream.url, ['moved']),
    REDIS_URL: redis.url,
    TICKET_SECRET: 'x'.repeat(32),
  };
  const [a, b] = await Promise.all([serve(t, { env }), serve(t, { env })]);
  const isShared = ({ app }: Service) => app.cluster?.connection.isAvailable === true;
  await until(() => isShared(a) && isShared(b), 'Redis is connected');
  const headers = { authorization: 'Bearer moved' };
  const body = { question: questionOf(0), model: 'steady', maxTokens: 100, resumable: true };
  const local = await open(`${a.url}/ask/stream`, { headers, body });
  const reading = await open(`${b.url}${(await local.until('start')).json.url}`);
  await until(() => deltaText(reading) === '12345678', 'B reads the answer');
  await a.app.lifecycle.drain();
  const call = await upstream.call(2);
  await assertCharged(t, b, 'moved', ESTIMATE);
  call.response.end(text('x') + STOP + last(USAGE) + DONE);
  await reading.until('end');
  await until(() => b.app.streams.active === 0, 'the answer has ended');
  // The part before had two tokens of output, and the input without them.
  await assertCharged(t, b, 'moved', 8 * TOKEN.input + 2 * TOKEN.output + WHOLE);
});
