import Fastify from 'fastify';
import t, { type Test } from 'tap';
import clockPlugin from '../../plugins/clock.ts';
import { loadConfig } from '../../plugins/config/load.ts';
import errors from '../../plugins/http/errors.ts';
import metrics from '../../plugins/metrics/index.ts';
import redis from '../../plugins/redis/index.ts';
import responses from '../../plugins/responses/index.ts';
import type { StreamInfo, Terminal } from '../../plugins/streams/types.ts';
import webhooks from '../../plugins/webhooks/index.ts';
import { until, writeConfig } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { type Call, startUpstream } from '../upstream.ts';
import { CALLERS, owns } from './replicas.ts';

/** Stored responses and webhooks without the streams that they belong to. */

const SECRET = `whsec_${'A'.repeat(32)}`;
const LONGEST_MS = 100_000;
const TEXT = [{ type: 'text', text: 'x' }] as const;
const end = (finishReason: Extract<Terminal, { type: 'end' }>['finishReason']): Terminal => ({
  type: 'end',
  finishReason,
});
const infoOf = (id: string, stored?: StreamInfo['stored']) =>
  ({ id, model: 'm', graceMs: 0, owner: 'key:a', stored }) as StreamInfo;

async function setUp(t: Test, env: Record<string, string> = {}) {
  const clock = manualClock();
  const app = Fastify();
  const settings = loadConfig(env).responses;
  await app.register(clockPlugin, { clock });
  await app.register(metrics, { hasRedis: false });
  await app.register(errors);
  await app.register(redis, { redis: undefined });
  await app.register(webhooks, { settings: settings.webhook });
  await app.register(responses, { settings, streamTtlMs: 1_000, longestAnswerMs: () => LONGEST_MS });
  t.teardown(() => app.close());
  await app.ready();
  return { app, clock, settings, store: app.storedResponses, archive: app.answerArchive };
}

t.test('a response belongs to its caller and to the holder of its key', async (t) => {
  const { store, archive } = await setUp(t);
  for (const [starter, identity] of CALLERS.entries()) {
    const id = `s${starter}`;
    await store.save(id, identity, `{"n":${starter}}`);
    for (const [caller, other] of CALLERS.entries()) {
      const found = await store.find(id, other);
      t.equal(found !== undefined, owns(caller, starter), `caller ${caller} of ${starter}`);
      if (!owns(caller, starter)) t.equal(await store.delete(id, other), false, 'nor does another delete it');
    }
    archive.keep({ ...infoOf(id, 'foreground'), owner: identity.owner }, TEXT, end('length'));
    const found = await store.find(id, identity);
    t.match(found, { id, owner: identity.owner, request: `{"n":${starter}}` });
    t.match(found?.answer, { parts: TEXT, status: 'incomplete', terminal: end('length') });
    const now = Date.now();
    for (const at of [found?.createdAt, found?.answer?.endedAt]) t.ok(Math.abs(now - Number(at)) < 60_000);
    t.equal(await store.delete(id, identity), true);
    t.equal(await store.find(id, identity), undefined);
    t.equal(await store.delete(id, identity), false);
  }
});

t.test('ids that are none of streams are unknown', async (t) => {
  const { store } = await setUp(t);
  const [caller] = CALLERS as [(typeof CALLERS)[number]];
  for (const id of ['', 'a b', 'a:b', '{x}', 'x\n', 'x'.repeat(65)]) {
    await store.save(id, caller, '{}');
    t.equal(await store.find(id, caller), undefined, id);
  }
  for (const id of ['a', 'A-_9', 'x'.repeat(64)]) {
    await store.save(id, caller, '{}');
    t.ok(await store.find(id, caller), id);
  }
});

t.test('a question that is too long is refused, with what to do', async (t) => {
  const { store, settings } = await setUp(t);
  store.check('x'.repeat(settings.maxRequestChars));
  t.throws(() => store.check('x'.repeat(settings.maxRequestChars + 1)), {
    statusCode: 413,
    code: 'invalid_request',
    message: /at most \d+ characters.*store: false/,
  } as unknown as Error);
});

t.test('a question whose answer does not end is kept for three times the longest answer', async (t) => {
  const { store, settings, clock, archive } = await setUp(t, { RESPONSES_TTL_MS: '50000' });
  const [caller] = CALLERS as [(typeof CALLERS)[number]];
  t.equal(store.ttlMs, settings.ttlMs);
  t.equal(archive.ttlMs, settings.ttlMs);
  await store.save('a', caller, '{}');
  clock.advance(3 * LONGEST_MS + settings.ttlMs - 1);
  t.ok(await store.find('a', caller));
  clock.advance(1);
  t.equal(await store.find('a', caller), undefined);
});

t.test('responses that are removed before their time are counted', async (t) => {
  const CONFIG_FILE = writeConfig(t, 'responses: { maxPerOwner: 1 }\n');
  const { app, store } = await setUp(t, { CONFIG_FILE });
  const [caller] = CALLERS as [(typeof CALLERS)[number]];
  for (const id of ['a', 'b', 'c']) await store.save(id, caller, '{}');
  t.equal(await metricValue(app, 'sluice_stored_responses_evicted_total'), 2);
});

t.test('the outcome of an answer', async (t) => {
  const { store, archive } = await setUp(t);
  const [caller] = CALLERS as [(typeof CALLERS)[number]];
  const error = { type: 'error', code: 'upstream_failed', message: 'm', retryable: false } as Terminal;
  const outcomes = [
    [end('stop'), 'completed'],
    [end('tool_calls'), 'completed'],
    [end('length'), 'incomplete'],
    [end('content_filter'), 'incomplete'],
    [end('stopped'), 'cancelled'],
    [error, 'failed'],
  ] as const;
  for (const [i, [terminal, status]] of outcomes.entries()) {
    await store.save(`s${i}`, caller, '{}');
    archive.keep(infoOf(`s${i}`, 'foreground'), [], terminal);
    t.equal((await store.find(`s${i}`, caller))?.answer?.status, status);
  }
});

const hookEnv = (url: string) => ({ RESPONSES_WEBHOOK_URL: url, RESPONSES_WEBHOOK_SECRET: SECRET });

t.test('the end of a background answer is delivered, that of others and of deleted ones is not', async (t) => {
  const receiver = await startUpstream(t, ({ response }: Call) => void response.writeHead(200).end());
  const { app, clock, store, archive } = await setUp(t, hookEnv(receiver.url));
  const [caller] = CALLERS as [(typeof CALLERS)[number]];
  for (const outcome of ['delivered', 'retry', 'failed', 'dropped']) {
    t.match(
      await app.metrics.text(),
      `sluice_webhooks_total{outcome="${outcome}"} 0`,
      'an alert sees it from the start',
    );
  }
  for (const info of [infoOf('foreground', 'foreground'), infoOf('not-stored'), infoOf('deleted', 'background')]) {
    archive.onCreated(info);
    await store.save(info.id, caller, '{}');
    if (info.id === 'deleted') await store.delete(info.id, caller);
    archive.keep(info, TEXT, end('stop'));
    if (info.id !== 'deleted') t.equal(archive.announce(info, end('stop')), undefined);
  }
  const info = infoOf('background', 'background');
  archive.onCreated(info);
  archive.keep(info, TEXT, end('length'));
  clock.advance(0);
  await until(
    async () => (await metricValue(app, 'sluice_webhooks_total', { outcome: 'delivered' })) === 1,
    'delivered',
  );
  t.match(
    receiver.calls.map(({ body }) => JSON.parse(body)),
    [{ id: 'evt_background', type: 'response.incomplete', data: { id: 'resp_background' } }],
  );
  t.equal(receiver.calls.length, 1);
  const announcement = archive.announce(info, end('length'));
  t.match(JSON.parse(announcement?.text ?? '{}'), { id: 'evt_background', type: 'response.incomplete' });
  t.equal(announcement?.ttlMs, 86_400_000 + 120_000, 'Redis keeps it longer than it is repeated');
});

t.test('without a webhook nothing is announced', async (t) => {
  const { app, archive, clock } = await setUp(t);
  const info = infoOf('background', 'background');
  archive.onCreated(info);
  archive.keep(info, TEXT, end('stop'));
  archive.onAnnounced(info);
  t.equal(archive.announce(info, end('stop')), undefined);
  t.equal(app.webhooks, undefined);
  clock.advance(0);
  t.notMatch(await app.metrics.text(), 'sluice_webhooks_total{');
});

t.test('an attempt has the time limit of the settings, and a process that ends delivers what waits', async (t) => {
  const receiver = await startUpstream(t, ({ response }: Call) => {
    if (receiver.calls.length > 1) response.writeHead(200).end();
  });
  const { app, clock, archive } = await setUp(t, hookEnv(receiver.url));
  archive.keep(infoOf('a', 'background'), TEXT, end('stop'));
  clock.advance(0);
  await receiver.call(1);
  clock.advance(9_999);
  t.equal(await metricValue(app, 'sluice_webhooks_total', { outcome: 'retry' }), 0);
  clock.advance(1);
  const retries = () => metricValue(app, 'sluice_webhooks_total', { outcome: 'retry' });
  await until(async () => (await retries()) === 1, 'it is given up and repeated');
  await app.close();
  t.equal(receiver.calls.length, 2);
  t.equal(await metricValue(app, 'sluice_webhooks_total', { outcome: 'delivered' }), 1);
});
