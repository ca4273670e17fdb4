import type { Redis } from 'ioredis';
import t from 'tap';
import type { UsageRecord } from '../../plugins/usage/record.ts';
import { bellaAt, captureLog, serve, until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { noRedis, persistentRedis, startRedis } from '../redis.ts';
import { readAll } from '../sse-client.ts';
import { completeAnswer, startUpstream } from '../upstream.ts';
import { captureUsage } from './capture.ts';

/** Tests the Redis stream as destination, with a Redis that stops, refuses, and starts again. */

async function storedIn(client: Redis): Promise<UsageRecord[]> {
  const entries = await client.xrange('sluice:usage', '-', '+');
  return entries.map(([, [field, record]]) => {
    if (field !== 'record') throw new Error(`field ${field}`);
    return JSON.parse(record as string);
  });
}

t.test('records survive a restart of Redis and an outage, and none is lost', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t, ...persistentRedis(t));
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { logTo, log } = captureLog();
  const { usageTo, records } = captureUsage();
  const env = bellaAt(upstream.url, { REDIS_URL: redis.url, USAGE_TO: 'redis' });
  const { app, url } = await serve(t, { env, logTo, usageTo });
  const streams: string[] = [];
  const ask = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const { events } = await readAll(`${url}/ask/stream?question=q`);
      streams.push(events[0]?.json.stream);
    }
  };
  const written = () => metricValue(app, 'sluice_usage_records_total', { destination: 'redis', outcome: 'written' });
  await until(() => app.cluster?.connection.isAvailable === true, 'connected');
  await ask(3);
  await until(async () => (await written()) === 3, 'three records are written');

  await redis.stop();
  await ask(5);
  t.equal(await written(), 3, 'nothing is written to a Redis that is gone');
  await redis.start();
  await until(async () => (await written()) === 8, 'the records of the outage are written');

  await redis.client.config('SET', 'maxmemory', '1');
  await ask(2);
  await redis.client.config('SET', 'maxmemory', '0');
  await until(async () => (await written()) === 10, 'the records of a full Redis are written');

  await ask(1);
  await app.close();
  const stored = await storedIn(redis.client);
  t.same(new Set(stored.map(({ stream }) => stream)), new Set(streams), 'every answer has a record');
  t.ok(stored.every(({ usage, inputTokens }) => usage === 1 && inputTokens > 0));
  t.same(records, [], 'none went to standard output');
  const warnings = log().match(/usage records cannot be written/g) ?? [];
  t.equal(warnings.length, 2, 'one line for each outage');
});

t.test('the stream keeps about the configured number of records', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, completeAnswer('x'));
  const CONFIG_FILE = `${t.testdir({ 'c.yaml': 'usage: { to: redis, maxLength: 10 }' })}/c.yaml`;
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { REDIS_URL: redis.url, CONFIG_FILE }) });
  await until(() => app.cluster?.connection.isAvailable === true, 'connected');
  const rows = Array.from({ length: 500 }, (_, i) => redis.client.xadd('sluice:usage', '*', 'record', `old ${i}`));
  await Promise.all(rows);
  await readAll(`${url}/ask/stream?question=q`);
  await until(async () => (await redis.client.xlen('sluice:usage')) < 200, 'old records are removed');
  const [, last] = (await redis.client.xrevrange('sluice:usage', '+', '-', 'COUNT', 1))[0] as [string, string[]];
  t.match(last[1], /^\{"usage":1,/, 'the newest stays');
});

t.test('what Redis does not take by the end goes to standard output', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, completeAnswer('x'));
  const { usageTo, records } = captureUsage();
  const env = bellaAt(upstream.url, { REDIS_URL: redis.url, USAGE_TO: 'redis' });
  const { app, url } = await serve(t, { env, usageTo });
  await until(() => app.cluster?.connection.isAvailable === true, 'connected');
  await redis.stop();
  for (let i = 0; i < 3; i++) await readAll(`${url}/ask/stream?question=q`);
  t.same(records, [], 'they wait');
  await app.close();
  t.equal(records.length, 3);
});
