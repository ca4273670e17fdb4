import t from 'tap';
import { until } from '../helper.ts';
import { noRedis } from '../redis.ts';
import { startReplicas } from '../replicas.ts';
import { open, type Reading, readAll } from '../sse-client.ts';
import { chunk, DONE, sse, text } from '../upstream.ts';

/** AG-UI on two replicas that share a Redis. */

const INPUT = { threadId: 't', runId: 'r', messages: [{ id: 'u', role: 'user', content: 'q' }] };
const resumeAt = (url: string, id: string | undefined) => open(`${url}/agui`, { headers: { 'last-event-id': id } });
const tool = (index: number, args: string) =>
  chunk({ tool_calls: [{ index, id: `c${index}`, function: { name: 'look', arguments: args } }] });
/** Ids of the events without content: how content is divided depends on the moment. */
const structureOf = ({ events }: Reading) =>
  events.filter(({ json }) => json.delta === undefined).map(({ id, json }) => `${id} ${json.type}`);
const contentOf = (...readings: Reading[]) =>
  readings.flatMap(({ events }) => events.map(({ json }) => json.delta ?? '')).join('');

t.test('a run continues on the other replica, with the same ids', { skip: noRedis }, async (t) => {
  const { a, b, upstream } = await startReplicas(t, ({ response }) => {
    sse(response).write(chunk({ reasoning_content: 'hm' }) + text('Let me '));
  });
  const first = await open(`${a.url}/agui`, { body: INPUT });
  const { id } = await first.until('TEXT_MESSAGE_CONTENT');
  const joined = await open(`${b.url}/agui?runId=r&offset=-1`);
  await joined.until('TEXT_MESSAGE_CONTENT');
  t.match(joined.events[0]?.json, { type: 'RUN_STARTED', threadId: 't', runId: 'r' });
  const ofThread = await open(`${b.url}/agui?threadId=t`);
  const repeated = await open(`${b.url}/agui`, { body: INPUT });
  const resumed = await resumeAt(b.url, id);
  await until(async () => (await b.app.metrics.text()).includes('sluice_responses_open 4'), 'the other replica reads');
  (await upstream.call(1)).response.end(
    text('look.') + tool(0, '{"at":') + tool(1, '') + chunk({}, 'tool_calls') + DONE,
  );
  for (const reading of [first, joined, ofThread, repeated, resumed]) t.equal(await reading.ended, true);
  t.match(first.events.at(-1)?.json, { type: 'RUN_ERROR', code: 'incomplete_tool_call' });
  for (const reading of [joined, ofThread, repeated]) {
    t.same(structureOf(reading), structureOf(first));
    t.equal(contentOf(reading), contentOf(first));
  }
  const later = await readAll(`${b.url}/agui?runId=r&offset=-1`);
  t.same(structureOf(later), structureOf(first), 'a join after the end');
  const whole = structureOf(first);
  t.same(structureOf(resumed), whole.slice(whole.findIndex((line) => /TEXT_MESSAGE_END/.test(line))));
  for (const [i, { id, json }] of first.events.entries()) {
    if (i === first.events.length - 1) continue;
    const rest = await resumeAt(b.url, id);
    await rest.ended;
    const before = { ...first, events: first.events.slice(0, i + 1) };
    t.same([...structureOf(before), ...structureOf(rest)], whole, `behind ${json.type}`);
    t.equal(contentOf(before, rest), contentOf(first));
  }
  t.equal(upstream.calls.length, 1, 'one provider call');
});

t.test('without Redis, a join is a status, and a resume is a broken connection', { skip: noRedis }, async (t) => {
  const { a, b, redis } = await startReplicas(t, ({ response }) => void sse(response).write(text('x')));
  const first = await open(`${a.url}/agui`, { body: INPUT });
  const { id } = await first.until('TEXT_MESSAGE_CONTENT');
  await redis.stop();
  const join = await fetch(`${b.url}/agui?runId=r&offset=-1`);
  t.match([join.status, join.headers.get('retry-after')], [503, /\d/]);
  const resumed = await resumeAt(b.url, id);
  t.equal(resumed.response.statusCode, 200);
  t.equal(await resumed.ended, false, 'the response is not complete');
  t.same(resumed.events, []);
});

t.test('a drain breaks connections off, so that clients come back', { skip: noRedis }, async (t) => {
  const { a, b, upstream } = await startReplicas(t, ({ response }) => void sse(response).write(text('x')));
  const started = await open(`${a.url}/agui`, { body: INPUT });
  await started.until('TEXT_MESSAGE_CONTENT');
  const reader = await open(`${b.url}/agui?runId=r&offset=-1`);
  const { id } = await reader.until('TEXT_MESSAGE_CONTENT');
  b.app.responses.disconnectResumable();
  t.equal(await reader.ended, false, 'the response is not complete');
  const resumed = await resumeAt(a.url, id);
  (await upstream.call(1)).response.end(chunk({ content: 'y' }, 'stop') + DONE);
  await resumed.ended;
  t.equal(contentOf(reader, resumed), 'xy');
});
