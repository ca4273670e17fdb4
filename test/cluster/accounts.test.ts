import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { type Cluster, noCluster, startCluster } from '../cluster.ts';
import { bearer, sha256, until, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { persistentRedis } from '../redis.ts';
import { open, type Reading } from '../sse-client.ts';
import { chunk, DONE, type Script, STOP, sse, text } from '../upstream.ts';

/** The usage records and the budget of many answers behind the gateway, with readers that leave, and outages. */

const KEY = 'sk-sluice-key-of-a-page';
const ANSWERS = Number(process.env.ANSWERS ?? 400);
/** Questions that are asked at the same time. */
const AT_ONCE = 40;
const PROMPT_TOKENS = 30;
/** Tokens of the answer to a question. */
const outputOf = (i: number) => 3 + (i % 6);
/** USD per token, so that sums are easy to read. */
const PRICE = 0.001;
const MAX_COST = (PROMPT_TOKENS + outputOf(5)) * PRICE;

interface Record {
  readonly stream: string;
  readonly key: string;
  readonly visitor?: string;
  readonly outcome: string;
  readonly basis: string;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly cost?: number;
}

/** Tokens that the provider has counted, by the number of the question. */
const counting =
  (counted: Map<number, number>): Script =>
  async ({ body, response }) => {
    const { messages } = JSON.parse(body) as { messages: { content: string }[] };
    const i = Number(messages.at(-1)?.content.slice(1));
    sse(response);
    for (let n = 0; n < outputOf(i); n++) {
      if (response.destroyed) return;
      response.write(text(`${n} `));
      await sleep(30);
    }
    if (response.destroyed) return;
    const usage = { prompt_tokens: PROMPT_TOKENS, completion_tokens: outputOf(i) };
    counted.set(i, PROMPT_TOKENS + outputOf(i));
    response.end(STOP + chunk({}, null, { choices: [], usage }) + DONE);
  };

async function start(t: Test, budget: number) {
  const counted = new Map<number, number>();
  const yaml = `
keys: [{ name: web, sha256: ${sha256(KEY)}, budget: { period: month, amount: ${budget} } }]
providers: { bella: { type: bella, baseUrl: "\${BELLA_BASE_URL}", apiKeys: [k] } }
models: [{ name: default, targets: [{ provider: bella, model: m }], price: { input: ${PRICE * 1e6}, output: ${PRICE * 1e6} } }]`;
  const env = { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'default', TICKET_SECRET: 's'.repeat(32) };
  const cluster = await startCluster(t, counting(counted), env, persistentRedis(t));
  /** Replicas that were killed, whose lines still count. */
  const killed: Cluster['replicas'] = [];
  const records = () =>
    [...killed, ...cluster.replicas].flatMap(({ lines }) =>
      lines.filter(({ usage }) => usage === 1),
    ) as unknown as Record[];
  const kill = async (index: number) => {
    const replica = cluster.replicas[index];
    if (replica === undefined) return;
    replica.child.kill('SIGKILL');
    await replica.exit;
    killed.push(replica);
    await cluster.restart(index);
  };
  return { counted, cluster, records, kill };
}

type World = Awaited<ReturnType<typeof start>>;

/** Asks until a stream starts, as a page does. Resolves with its id, or with undefined if the budget is used up. */
async function ask({ cluster }: World, i: number): Promise<string | undefined> {
  for (;;) {
    const reading = await tryToAsk(cluster, i).catch(() => undefined);
    const [first] = reading?.events ?? [];
    if (first?.json?.type === 'error' && first.json.code === 'rate_limited') return undefined;
    if (reading !== undefined && first?.json?.type === 'start') {
      await readOn(reading, i);
      return first.json.stream as string;
    }
    await sleep(50);
  }
}

/** Opens a question with a ticket of one of twenty visitors. Rejects if a replica dies meanwhile. */
async function tryToAsk({ url }: Cluster, i: number): Promise<Reading | undefined> {
  const response = await postJson(`${url}/tickets`, { visitor: `v${i % 20}`, maxTokens: 20 }, bearer(KEY));
  if (response.status !== 201) return undefined;
  const { ticket } = (await response.json()) as { ticket: string };
  // The key of the question, so that asking again after a cut starts nothing.
  const reading = await open(`${url}/ask/stream?question=q${i}&key=k${i}&ticket=${ticket}`);
  await until(() => reading.events.some(({ json }) => json?.type !== undefined), 'an event has come').catch(() => {});
  return reading;
}

/** Reads to the end, or leaves: at once, or after the first text. */
async function readOn(reading: Reading, i: number): Promise<void> {
  if (i % 5 === 1) return reading.cut();
  if (i % 5 === 3) {
    await reading.until('delta').catch(() => {});
    return reading.cut();
  }
  await reading.ended;
}

t.test('each answer has one record, and their sum is what the provider has counted', { skip: noCluster }, async (t) => {
  const world = await start(t, ANSWERS * MAX_COST);
  const { cluster, counted, records, kill } = world;
  const streams = new Map<number, string>();
  let next = 0;
  const outages = [
    { at: ANSWERS / 3, run: () => kill(1) },
    {
      at: (2 * ANSWERS) / 3,
      run: async () => {
        await cluster.redis.stop();
        await sleep(500);
        await cluster.redis.start();
      },
    },
  ];
  const running: Promise<void>[] = [];
  const worker = async () => {
    while (next < ANSWERS) {
      const i = next++;
      if (i >= (outages[0]?.at ?? Number.POSITIVE_INFINITY)) running.push(outages.shift()?.run() ?? Promise.resolve());
      const stream = await ask(world, i);
      if (stream !== undefined) streams.set(i, stream);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  await Promise.all(running);
  t.equal(streams.size, ANSWERS, 'every question has a stream');

  /** The record of each stream that counts. */
  const byStream = () => {
    const found = new Map<string, Record>();
    for (const record of records()) {
      if (found.get(record.stream)?.basis !== 'counted') found.set(record.stream, record);
    }
    return found;
  };
  const missing = () => {
    const found = byStream();
    return [...streams].filter(([, stream]) => !found.has(stream));
  };
  // Those of the killed replica that nobody reads are ended last.
  await until(() => missing().length === 0, 'every stream has a record').catch(() => {});
  t.same(missing(), [], 'every stream has a record');
  const found = byStream();
  const duplicates = records().length - found.size;
  t.comment(`${records().length} records of ${found.size} streams; ${cluster.upstream.calls.length} calls`);
  // The killed replica may have written a record before Redis had the end.
  t.ok(duplicates <= AT_ONCE, `${duplicates} streams of the killed replica have two`);
  // It may also have died before a call, and a question whose page knew no stream was asked again.
  const calls = cluster.upstream.calls.length;
  t.ok(calls <= found.size && calls >= found.size - AT_ONCE, 'at most one call for each stream');
  const wrong = [...streams].filter(([i, stream]) => {
    const record = found.get(stream);
    const sum = (record?.inputTokens ?? 0) + (record?.outputTokens ?? 0);
    return record?.basis === 'counted' ? sum !== counted.get(i) : record?.outcome === 'ok';
  });
  t.same(wrong, [], 'a counted record has the count of the provider');
  const lost = [...found.values()].filter(({ basis }) => basis !== 'counted');
  t.ok(lost.length <= AT_ONCE, `${lost.length} answers of the killed replica are estimated`);
  t.ok([...found.values()].every(({ key, visitor }) => key === 'web' && /^[\w-]{16}$/.test(visitor ?? '')));
  t.equal(new Set([...found.values()].map(({ visitor }) => visitor)).size, Math.min(20, ANSWERS), 'twenty visitors');
  const costs = [...found.values()].reduce((sum, { cost = 0 }) => sum + Math.round(cost * 1e9), 0);
  t.comment(`costs of all records: ${costs / 1e9} USD`);
  const charged = async () => {
    const [key = ''] = await cluster.redis.client.keys('*:limit:budget:*:key:web');
    const [ended, running] = await cluster.redis.client.hmget(key, 'ended', 'running');
    return { ended: Number(ended), running: Number(running) };
  };
  // Of two records of a stream, the budget has the cost of the one that Redis knew first. The killed replica may also
  // have charged an answer, and not have written its record.
  const tolerated = (duplicates + lost.length) * MAX_COST * 1e9;
  const isCharged = async () => Math.abs((await charged()).ended - costs) <= tolerated;
  await until(isCharged, 'the costs are charged').catch(() => {});
  const { ended, running: reserved } = await charged();
  t.ok(await isCharged(), `the budget has these costs: ${ended / 1e9} of ${costs / 1e9} USD`);
  // A question that the killed replica had charged, but not asked, stays reserved until the period ends.
  t.ok(reserved <= AT_ONCE * 25 * PRICE * 1e9, `${reserved / 1e9} USD are reserved`);
});

t.test('a budget is exceeded by one answer for each running generation at most', { skip: noCluster }, async (t) => {
  const budget = 40 * MAX_COST;
  const world = await start(t, budget);
  let refused = 0;
  let next = 0;
  const worker = async () => {
    while (next < 100) if ((await ask(world, next++)) === undefined) refused += 1;
  };
  await Promise.all(Array.from({ length: 10 }, worker));
  const { records, cluster } = world;
  await until(() => records().length === cluster.upstream.calls.length, 'every answer has a record');
  const costs = records().reduce((sum, { cost = 0 }) => sum + cost, 0);
  t.ok(refused > 0, `${refused} questions are refused`);
  t.equal(records().length + refused, 100);
  t.ok(costs <= budget + 10 * MAX_COST, `${costs} of ${budget} USD are spent`);
  t.ok(costs > budget - 12 * MAX_COST, 'the budget is used');
});
