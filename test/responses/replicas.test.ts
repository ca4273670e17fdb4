import t from 'tap';
import { until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { freePort, noRedis, type RedisServer } from '../redis.ts';
import { startReplicas } from '../replicas.ts';
import { open, type Reading } from '../sse-client.ts';
import { chunk, DONE, sse, text } from '../upstream.ts';
import { checkGrammar, type Event } from './grammar.ts';

/** `/v1/responses` on two replicas that share a Redis. */

const jsonsOf = ({ named }: Reading): Event[] => named.map(({ json }) => json);
const tool = (index: number, args: string) =>
  chunk({ tool_calls: [{ index, id: `c${index}`, function: { name: 'look', arguments: args } }] });
const ask = (url: string, fields: object = {}) =>
  open(`${url}/v1/responses`, { body: { input: 'q', stream: true, background: true, ...fields } });
const idOf = (reading: Reading) => `resp_${reading.response.headers['x-sluice-stream']}`;
const resumeAt = (url: string, id: string, after: number) =>
  open(`${url}/v1/responses/${id}?stream=true&starting_after=${after}`);
async function get(url: string, path: string) {
  const response = await fetch(`${url}/v1/responses/${path}`);
  return { status: response.status, body: (await response.json()) as Event };
}

t.test(
  'an answer continues on the other replica behind any event, with the same events',
  { skip: noRedis },
  async (t) => {
    const { a, b, upstream } = await startReplicas(t, ({ response }) => {
      sse(response).write(chunk({ reasoning_content: 'hm' }) + text('Let me '));
    });
    const first = await ask(a.url);
    await until(() => jsonsOf(first).some(({ type }) => type === 'response.output_text.delta'), 'the answer has begun');
    const id = idOf(first);
    const resumed = await resumeAt(b.url, id, 4);
    t.match(await get(b.url, id), { status: 200, body: { status: 'in_progress', output: [] } });
    await until(async () => (await metricValue(b.app, 'sluice_readers')) > 0, 'the other replica reads');
    const { response } = await upstream.call(1);
    response.end(text('look.') + tool(0, '{"at":') + tool(0, '1}') + tool(1, '') + chunk({}, 'tool_calls') + DONE);
    for (const reading of [first, resumed]) t.equal(await reading.ended, true);
    const whole = jsonsOf(first);
    checkGrammar(whole);
    t.same(jsonsOf(resumed), whole.slice(5));
    for (const { sequence_number: after } of whole) {
      const rest = await resumeAt(b.url, id, after);
      await rest.ended;
      t.same(jsonsOf(rest), whole.slice(after + 1), `behind ${after}`);
    }
    const kept = await get(b.url, id);
    t.match(kept.body, { status: 'completed', completed_at: Number });
    t.same(kept.body.output, whole.at(-1).response.output);
    t.match(await get(b.url, `${id}/input_items`), { body: { data: [{ role: 'user' }] } });

    const outputs = ['c0', 'c1'].map((call_id) => ({ type: 'function_call_output', call_id, output: 'x' }));
    const second = await ask(b.url, { previous_response_id: id, input: outputs });
    t.match(JSON.parse((await upstream.call(2)).body).messages, [
      { role: 'user' },
      { role: 'assistant', content: 'Let me look.', tool_calls: { length: 2 } },
      { role: 'tool', tool_call_id: 'c0' },
      { role: 'tool', tool_call_id: 'c1' },
    ]);
    const cancel = await fetch(`${a.url}/v1/responses/${idOf(second)}/cancel`, { method: 'POST' });
    t.match(await cancel.json(), { status: 'cancelled' }, 'cancelled by the other replica');
    await second.ended;
    t.match(jsonsOf(second).at(-1), { type: 'response.incomplete', response: { status: 'cancelled' } });
    t.equal(upstream.calls.length, 2);
  },
);

t.test('without Redis, stored responses are unavailable and running answers go on', { skip: noRedis }, async (t) => {
  const { a, b, redis, upstream } = await startReplicas(t, ({ response }) => void sse(response).write(text('x')));
  const first = await ask(a.url);
  await until(() => jsonsOf(first).length > 5, 'the answer has begun');
  await redis.stop();
  const { status, body } = await get(b.url, idOf(first));
  t.match([status, body.error.code], [503, 'overloaded']);
  (await upstream.call(1)).response.end(chunk({ content: 'y' }, 'stop') + DONE);
  t.equal(await first.ended, true);
  t.match(jsonsOf(first).at(-1), { type: 'response.completed' });
});

t.test('a drain breaks connections off, so that clients come back', { skip: noRedis }, async (t) => {
  const { a, b, upstream } = await startReplicas(t, ({ response }) => void sse(response).write(text('x')));
  const first = await ask(a.url);
  await until(() => jsonsOf(first).length > 5, 'the answer has begun');
  const reader = await resumeAt(b.url, idOf(first), 0);
  await until(() => jsonsOf(reader).length > 3, 'the other replica reads');
  b.app.responses.disconnectResumable();
  t.equal(await reader.ended, false, 'the response is not complete');
  const after = jsonsOf(reader).at(-1).sequence_number;
  const resumed = await resumeAt(a.url, idOf(first), after);
  (await upstream.call(1)).response.end(chunk({ content: 'y' }, 'stop') + DONE);
  await Promise.all([resumed.ended, first.ended]);
  t.same([...jsonsOf(reader), ...jsonsOf(resumed)], jsonsOf(first).slice(1));
});

/** Ways in which Redis refuses writes and answers reads. */
const REFUSALS = {
  OOM: {
    fail: ({ client }: RedisServer) => client.config('SET', 'maxmemory', '1'),
    heal: ({ client }: RedisServer) => client.config('SET', 'maxmemory', '0'),
  },
  READONLY: {
    fail: async ({ client }: RedisServer) => client.replicaof('127.0.0.1', await freePort()),
    heal: ({ client }: RedisServer) => client.replicaof('NO', 'ONE'),
  },
};

for (const [name, { fail, heal }] of Object.entries(REFUSALS)) {
  t.test(`${name}: the replica that has an ended answer returns it`, { skip: noRedis }, async (t) => {
    const { a, b, redis, upstream } = await startReplicas(t, ({ response }) => void sse(response).write(text('x')));
    const first = await ask(a.url);
    await until(() => jsonsOf(first).length > 5, 'the answer has begun');
    const id = idOf(first);
    await fail(redis);
    (await upstream.call(1)).response.end(chunk({ content: 'y' }, 'stop') + DONE);
    t.equal(await first.ended, true);
    const { output } = jsonsOf(first).at(-1).response;
    // A replica connects again to find a primary, and has no Redis meanwhile.
    const once = async <T extends { status: number }>(call: () => Promise<T>): Promise<T> => {
      let reply: T | undefined;
      await until(async () => {
        reply = await call();
        return reply.status !== 503;
      }, 'Redis is read');
      return reply as T;
    };
    t.match(await once(() => get(a.url, id)), { status: 200, body: { status: 'completed', output } });
    const cancel = await once(() => fetch(`${a.url}/v1/responses/${id}/cancel`, { method: 'POST' }));
    t.match(await cancel.json(), { status: 'completed', output });
    const events = await once(async () => {
      const reading = await resumeAt(a.url, id, 3);
      return { ...reading, status: reading.response.statusCode ?? 0, jsons: () => jsonsOf(reading) };
    });
    t.equal(await events.ended, true);
    t.same(events.jsons(), jsonsOf(first).slice(4));
    const other = await once(() => get(b.url, id));
    t.match(other.body, { status: 'in_progress' }, 'the other replica cannot know of the end');
    await heal(redis);
    await until(async () => (await get(b.url, id)).body.status === 'completed', 'Redis has the end');
    const { body } = await get(b.url, id);
    t.same(body.output, output);
    t.same(await get(a.url, id), { status: 200, body });
  });
}

t.test('Redis comes back empty: running responses are found, read and cancelled', { skip: noRedis }, async (t) => {
  const { a, b, redis, upstream } = await startReplicas(t, ({ response }) => void sse(response).write(text('x')));
  const [first, second] = [await ask(a.url, { input: 'one' }), await ask(a.url, { input: 'two' })];
  await until(() => [first, second].every((one) => jsonsOf(one).length > 5), 'both answers have begun');
  await redis.client.flushall();
  for (const reading of [first, second]) {
    const id = idOf(reading);
    t.match(await get(a.url, id), { status: 200, body: { status: 'in_progress' } }, 'found all the time');
    await until(async () => (await get(b.url, id)).status === 200, 'the question is written again');
    t.match(await get(b.url, id), { body: { status: 'in_progress', background: true } });
  }
  const events = await resumeAt(b.url, idOf(first), 2);
  (await upstream.call(1)).response.end(chunk({ content: 'y' }, 'stop') + DONE);
  for (const reading of [first, events]) t.equal(await reading.ended, true);
  t.same(jsonsOf(events), jsonsOf(first).slice(3));
  t.match(await get(b.url, idOf(first)), { body: { status: 'completed', output: [{ content: [{ text: 'xy' }] }] } });
  const list = await get(b.url, `${idOf(first)}/input_items`);
  t.match(list.body, { data: [{ content: [{ text: 'one' }] }] });

  const cancel = await fetch(`${b.url}/v1/responses/${idOf(second)}/cancel`, { method: 'POST' });
  t.match(await cancel.json(), { status: 'cancelled' });
  t.equal((await fetch(`${b.url}/v1/responses/${idOf(second)}`, { method: 'DELETE' })).status, 200);
  for (const { url } of [a, b]) t.equal((await get(url, idOf(second))).status, 404, 'deleted for good');
});
