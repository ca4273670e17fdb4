import t, { type Test } from 'tap';
import type { UsageRecord } from '../../plugins/usage/record.ts';
import { bearer, bellaAt, serve, sha256, until, writeConfig } from '../helper.ts';
import { noRedis, startRedis } from '../redis.ts';
import { deltaText, open } from '../sse-client.ts';
import { type Call, chunk, DONE, sse, startUpstream, text } from '../upstream.ts';
import { assertMetrics, assertShares, captureUsage } from './capture.ts';

/** Tests that an answer that changes its replica has one usage record, on the replica that ends it. */

const PARTIAL = 'x'.repeat(40);
const CONFIG = `
keys: [{ name: web, sha256: ${sha256('web')} }]
models:
  - { name: steady, price: { input: 2, output: 10 }, targets: [{ provider: bella, model: m }], onMidStreamFailure: continue }
  - { name: plain, targets: [{ provider: bella, model: m }] }`;

async function start(t: Test) {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text(PARTIAL)));
  const env = bellaAt(upstream.url, {
    ...{ REDIS_URL: redis.url, TICKET_SECRET: 'x'.repeat(32), DEFAULT_MODEL: 'steady' },
    CONFIG_FILE: writeConfig(t, CONFIG),
  });
  const replica = async () => {
    const { usageTo, records } = captureUsage();
    return { ...(await serve(t, { env, usageTo })), records };
  };
  const [a, b] = await Promise.all([replica(), replica()]);
  await until(() => [a, b].every(({ app }) => app.cluster?.connection.isAvailable === true), 'both share streams');
  /** Starts an answer on A that is read on B, where all its text so far has arrived. */
  const readOnB = async (model: string) => {
    const local = await open(`${a.url}/ask/stream?question=qqqqqq&model=${model}`, { headers: bearer('web') });
    const started = (await local.until('start')).json;
    const remote = await open(b.url + started.url);
    await until(() => deltaText(remote) === PARTIAL, 'the reader on B has the text');
    return { local, remote, stream: started.stream as string };
  };
  /** Lets other replicas believe that A is dead: it hears and sends nothing more. */
  const kill = async () => {
    const { cluster } = a.app;
    cluster?.connection.close();
    cluster?.mailbox.close();
    await redis.client.del(cluster?.leaseKey(cluster.replica) as string);
  };
  return { redis, upstream, a, b, readOnB, kill };
}

/** Ends an answer with counts of its provider. */
function finish({ response }: Call): void {
  const usage = { prompt_tokens: 100, completion_tokens: 7, total_tokens: 107 };
  response.end(text('rest') + chunk({}, 'stop', { usage }) + DONE);
}

const attemptsOf = ({ attempts }: UsageRecord) =>
  attempts.map((one) => [one.target, one.outcome, one.basis, one.inputTokens, one.outputTokens]);
const PROMPT_TOKENS = 2;

t.test('answers of a dead replica that are continued, lost, or stopped', { skip: noRedis }, async (t) => {
  const { upstream, a, b, readOnB, kill } = await start(t);
  const steady = await readOnB('steady');
  const plain = await readOnB('plain');
  await kill();
  finish(await upstream.call(3));
  await steady.remote.until('end');
  await plain.remote.until('error');
  await until(() => b.records.length === 2, 'both answers have a record on B');

  const continued = b.records.find(({ stream }) => stream === steady.stream) as UsageRecord;
  t.match(continued, { key: 'web', model: 'steady', outcome: 'ok', basis: 'both', inputTokens: 190, outputTokens: 17 });
  t.equal(continued.cost, (190 * 2 + 17 * 10) / 1e6);
  t.same(attemptsOf(continued), [
    [undefined, 'stream_lost', 'estimated', 90, 10],
    ['bella/m', 'ok', 'counted', 100, 7],
  ]);
  const lost = b.records.find(({ stream }) => stream === plain.stream) as UsageRecord;
  t.match(lost, { key: 'web', model: 'plain', outcome: 'stream_lost', basis: 'estimated' });
  t.same(attemptsOf(lost), [[undefined, 'stream_lost', 'estimated', PROMPT_TOKENS, 1_024]]);
  t.notOk('durationMs' in lost, 'nobody knows when it began');
  t.same(a.records, [], 'the dead replica has written none');
  assertShares(t, b.records);
  await assertMetrics(t, [b.app], b.records, ['web']);
});

t.test('an answer that a client stops at another replica after its producer died', { skip: noRedis }, async (t) => {
  const { a, b, readOnB, kill } = await start(t);
  const { stream, remote } = await readOnB('steady');
  await kill();
  const response = await fetch(`${b.url}/streams/${stream}/stop`, { method: 'POST', headers: bearer('web') });
  t.ok(response.ok, `stop: ${response.status}`);
  await remote.until('end');
  await until(() => b.records.length === 1, 'the answer has a record');
  t.match(b.records[0], { stream, outcome: 'stopped', basis: 'estimated' });
  t.same(a.records, []);
  await assertMetrics(t, [b.app], b.records, ['web']);
});

t.test('a replica that drains writes what it ends, and leaves the rest', { skip: noRedis }, async (t) => {
  const { upstream, a, b, readOnB } = await start(t);
  const steady = await readOnB('steady');
  const plain = await readOnB('plain');
  await a.app.lifecycle.drain();
  finish(await upstream.call(3));
  await steady.remote.until('end');
  await plain.remote.until('error');
  await until(() => a.records.length + b.records.length === 2, 'both answers have a record');
  t.match(a.records, [{ stream: plain.stream, outcome: 'stream_lost', attempts: [{ target: 'bella/m' }] }]);
  t.match(b.records, [{ stream: steady.stream, outcome: 'ok', inputTokens: 190, outputTokens: 17 }]);
  await assertMetrics(t, [a.app, b.app], [...a.records, ...b.records], ['web']);
});
