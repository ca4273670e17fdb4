import t, { type Test } from 'tap';
import type { UsageRecord } from '../../plugins/usage/record.ts';
import { bearer, serve, sha256, until, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { open, readAll } from '../sse-client.ts';
import { type Call, chunk, DONE, sse, startUpstream, text } from '../upstream.ts';
import { assertMetrics, assertShares, captureUsage } from './capture.ts';

/** Tests that each ended generation of one process has one usage record, which says what metrics count. */

const PRICE = '{ input: 2, output: 10 }';
const configAt = (url: string) => `
keys: [{ name: web, sha256: ${sha256('web')} }, { name: other, sha256: ${sha256('other')} }]
providers:
  one: { type: openai-compatible, baseUrl: "${url}/v1", apiKeys: [k] }
  two: { type: openai-compatible, baseUrl: "${url}/v1", apiKeys: [k], models: "*" }
models:
  - { name: steady, price: ${PRICE}, targets: [{ provider: one, model: m1 }, { provider: two, model: m2 }], onMidStreamFailure: continue }
  - { name: plain, price: ${PRICE}, targets: [{ provider: one, model: m1 }, { provider: two, model: m2 }] }
  - { name: single, targets: [{ provider: one, model: m1 }] }`;

/** Counts of the provider for each complete call. */
const COUNTS = { prompt_tokens: 100, completion_tokens: 7, total_tokens: 107 };

/** Answers as the question says. */
function answer({ body, response }: Call): void {
  const { messages, model } = JSON.parse(body) as { messages: { content: string }[]; model: string };
  const question = messages[0]?.content ?? '';
  if (question === 'fail') return void response.writeHead(503).end();
  if (question === 'wrong') return void response.writeHead(400).end('{}');
  if (model === 'm1' && question === 'fallback') return void response.writeHead(503).end();
  sse(response).write(text('x'.repeat(40)));
  if (model === 'm1' && question === 'break') return void response.end(); // Without a finish reason.
  if (question === 'wait') return;
  const details = { prompt_tokens_details: { cached_tokens: 64 }, completion_tokens_details: { reasoning_tokens: 2 } };
  const usage = question === 'details' ? { ...COUNTS, ...details } : COUNTS;
  response.end(chunk({}, 'stop', question === 'uncounted' ? {} : { usage }) + DONE);
}

async function setUp(t: Test, env: Record<string, string> = {}) {
  const upstream = await startUpstream(t, answer);
  const { usageTo, records } = captureUsage();
  const CONFIG_FILE = writeConfig(t, configAt(upstream.url));
  const service = await serve(t, { env: { CONFIG_FILE, DEFAULT_MODEL: 'plain', ...env }, usageTo });
  const headers = bearer('web');
  const ask = (question: string, model = 'plain') =>
    readAll(`${service.url}/ask/stream?question=${question}&model=${model}`, { headers });
  /** Starts an answer that does not end, and waits until its reader has text. */
  const wait = async (model = 'plain') => {
    const reading = await open(`${service.url}/ask/stream?question=wait&model=${model}`, { headers });
    await reading.until('delta');
    return reading;
  };
  const recorded = (count: number) => until(() => records.length >= count, `${count} records`);
  return { ...service, records, ask, wait, recorded };
}

const brief = ({ outcome, basis, inputTokens, outputTokens, attempts }: UsageRecord) => ({
  outcome,
  basis,
  tokens: [inputTokens, outputTokens],
  attempts: attempts.map((one) => [one.target, one.outcome, one.basis, one.inputTokens, one.outputTokens]),
});

t.test('an answer has one record with all that is known of it, and nothing that was said', async (t) => {
  const { app, records, ask } = await setUp(t);
  const before = Date.now();
  const { events } = await ask('details');
  const [record] = records as [UsageRecord];
  t.match(record, {
    ...{ usage: 1, stream: events[0]?.json.stream, key: 'web', model: 'plain', outcome: 'ok', finishReason: 'stop' },
    ...{ basis: 'counted', inputTokens: 100, outputTokens: 7, estimatedInputTokens: 0, estimatedOutputTokens: 0 },
    ...{ cachedTokens: 64, reasoningTokens: 2, cost: (100 * 2 + 7 * 10) / 1e6, estimatedCost: 0 },
    attempts: [{ target: 'one/m1', outcome: 'ok', basis: 'counted', inputTokens: 100, outputTokens: 7 }],
  });
  t.equal(record.attempts[0]?.cost, record.cost);
  t.ok(Date.parse(record.time) >= before && Date.parse(record.time) <= Date.now(), record.time);
  t.ok((record.firstTokenMs ?? -1) >= 0 && (record.durationMs ?? -1) >= (record.firstTokenMs ?? 0), 'times');
  t.notMatch(JSON.stringify(records), /xxxx|details|apiKey/, 'neither question nor answer');
  await ask('details', 'single');
  t.notOk('cost' in (records[1] as object), 'an unknown cost is absent');
  await ask('details', 'two/any-name');
  t.match(records[2], { model: 'two/any-name', attempts: [{ target: 'two/any-name' }] }, 'a name that clients choose');
  t.equal(records.length, 3);
  await assertMetrics(t, [app], records, ['web']);
});

t.test('every end of an answer has one record, and the records have what metrics count', async (t) => {
  const { app, url, records, ask, wait, recorded } = await setUp(t, { STREAM_GRACE_MS: '0', STREAM_MAX_CHARS: '1024' });
  const estimate = (question: string) => [Math.ceil((question.length + 2) / 4), 1_024] as const;
  const last = () => brief(records.at(-1) as UsageRecord);
  const unknown = (question: string, outcome: string, target: unknown[]) => ({
    outcome,
    basis: 'estimated',
    tokens: estimate(question),
    attempts: [[...target, 'estimated', ...estimate(question)]],
  });

  await ask('uncounted');
  t.same(last(), unknown('uncounted', 'ok', ['one/m1', 'ok']), 'complete, without a count');

  await ask('fallback');
  const refused = ['one/m1', 'http_503', 'counted', 0, 0];
  const counted = ['two/m2', 'ok', 'counted', 100, 7];
  t.same(last(), { outcome: 'ok', basis: 'counted', tokens: [100, 7], attempts: [refused, counted] }, 'fallback');

  await ask('break', 'steady');
  const broken = ['one/m1', 'no_finish', 'estimated', 90, 10];
  t.match(last(), { outcome: 'ok', basis: 'both', tokens: [190, 17] }, 'continuation');
  t.same(
    last().attempts.map(([target, , ...rest]) => [target, ...rest]),
    [
      [broken[0], ...broken.slice(2)],
      ['two/m2', 'counted', 100, 7],
    ],
  );

  await ask('break');
  t.same(last().tokens, estimate('break'), 'broken and not continued');
  t.match(last(), { outcome: 'upstream_truncated', attempts: [['one/m1', /./, 'estimated', ...estimate('break')]] });

  await ask('wrong');
  t.same(last().tokens, [0, 0], 'refused before the first part');
  t.match(last(), {
    outcome: 'upstream_rejected',
    basis: 'counted',
    attempts: [['one/m1', 'http_400', 'counted', 0, 0]],
  });

  const stopped = await wait();
  const { stream } = (await stopped.until('start')).json;
  await fetch(`${url}/streams/${stream}`, { method: 'DELETE', headers: bearer('web') });
  await recorded(6);
  t.same(last(), unknown('wait', 'stopped', ['one/m1', 'aborted']), 'stopped');
  t.equal(records.at(-1)?.finishReason, 'stopped');

  (await wait()).cut();
  await recorded(7);
  t.same(last(), unknown('wait', 'abandoned', ['one/m1', 'aborted']), 'abandoned');

  const revoked = await wait();
  app.reloadConfig({ ...app.config, keys: app.config.keys.filter(({ name }) => name === 'other') });
  await revoked.until('error');
  t.same(last(), unknown('wait', 'revoked', ['one/m1', 'aborted']), 'revoked');
  t.equal(records.at(-1)?.key, 'web', 'a removed key keeps its name');
  app.reloadConfig(app.config);

  const cut = await wait();
  await app.lifecycle.drain();
  await cut.until('error');
  t.same(last(), unknown('wait', 'stream_lost', ['one/m1', 'aborted']), 'shutdown');

  t.equal(records.length, 9, 'one record each');
  t.equal(new Set(records.map((one) => one.stream)).size, 9);
  assertShares(t, records);
  await assertMetrics(t, [app], records, ['web']);
});

t.test('an answer that is too long has one record', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('x'.repeat(5_000))));
  const { usageTo, records } = captureUsage();
  const CONFIG_FILE = writeConfig(t, configAt(upstream.url));
  const env = { CONFIG_FILE, DEFAULT_MODEL: 'plain', STREAM_MAX_CHARS: '1024' };
  const { app, url } = await serve(t, { env, usageTo });
  await readAll(`${url}/ask/stream?question=q`, { headers: bearer('web') });
  t.equal(records.length, 1);
  t.match(records[0], { outcome: 'limit_exceeded', outputTokens: 5_000 / 4, attempts: [{ outcome: 'aborted' }] });
  await assertMetrics(t, [app], records, ['web']);
});

t.test('a question that starts no answer has no record, and the same key has one for its answer', async (t) => {
  const { url, records, ask } = await setUp(t);
  t.equal((await postJson(`${url}/streams`, { question: 'q', model: 'unknown' }, bearer('web'))).status, 404);
  const headers = { ...bearer('web'), 'idempotency-key': 'k' };
  for (let i = 0; i < 3; i++) await postJson(`${url}/streams`, { question: 'q' }, headers);
  await until(() => records.length > 0, 'the answer has ended');
  await ask('q');
  t.equal(records.length, 2, 'one for the key, one for the second question');
});

t.test('with `none`, no record is written', async (t) => {
  const { records, ask } = await setUp(t, { USAGE_TO: 'none' });
  await ask('q');
  t.same(records, []);
});
