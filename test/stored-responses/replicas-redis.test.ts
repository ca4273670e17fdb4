import type { FastifyInstance } from 'fastify';
import t, { type Test } from 'tap';
import { ANONYMOUS } from '../../plugins/auth/identity.ts';
import { until, writeConfig } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { noRedis, type RedisServer, startRedis } from '../redis.ts';
import { type Call, startUpstream, type Upstream } from '../upstream.ts';
import { finish, type Replicas, startReplicas } from './replicas.ts';

/** Stored responses and webhooks of two replicas, with a Redis that fails, and a replica that dies. */

const SECRET = `whsec_${'A'.repeat(32)}`;
const HOUR = 3_600_000;
const UNAVAILABLE = { statusCode: 503 } as unknown as Error;
const ok = ({ response }: Call) => void response.writeHead(200).end();

const hookEnv = ({ url }: Upstream) => ({ RESPONSES_WEBHOOK_URL: url, RESPONSES_WEBHOOK_SECRET: SECRET });
const two = ({ apps }: Replicas) => apps as readonly [FastifyInstance, FastifyInstance];
const eventsOf = ({ calls }: Upstream) =>
  calls.map(({ body, request }) => ({ ...JSON.parse(body), header: request.headers['webhook-id'] }));
const find = async (app: FastifyInstance, id: string) => app.storedResponses.find(id, ANONYMOUS);
/** Waits until no replica has anything to deliver. */
const untilDelivered = (redis: RedisServer) =>
  until(async () => (await redis.client.zcard('sluice:webhooks')) === 0, 'nothing is scheduled');

t.test('with Redis', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  t.beforeEach(() => redis.client.flushall());

  t.test('an answer is found on both replicas, with its log, and announced once', async (t) => {
    const receiver = await startUpstream(t, ok);
    const replicas = await startReplicas(t, 2, { redis, env: hookEnv(receiver) });
    const [a, b] = two(replicas);
    const asked = await replicas.ask(a, ANONYMOUS, 'background');
    const other = await replicas.ask(a, ANONYMOUS);
    await a.storedResponses.save(asked.id, ANONYMOUS, '{"input":1}');
    const ttl = (key: string) => redis.client.pttl(`sluice:${key}`);
    const response = `response:{${asked.id}}`;
    t.ok((await ttl(response)) > HOUR, 'the question outlives the longest answer');
    t.match(await find(b, asked.id), { request: '{"input":1}', answer: undefined, owner: ANONYMOUS.owner });
    t.equal(await redis.client.zcard('sluice:webhooks'), 1, 'its end is expected');
    asked.end(finish('length'));
    other.end(finish('stop'));
    await Promise.all([asked.ended, other.ended]);
    const expected = { status: 'incomplete', parts: [{ type: 'text', text: 'start end' }] };
    for (const app of [a, b]) t.match((await find(app, asked.id))?.answer, expected);
    for (const key of [response, `log:{${asked.id}}`, `meta:{${asked.id}}`]) {
      const left = await ttl(key);
      t.ok(left > HOUR - 60_000 && left <= HOUR, `${key} lives as long as the response`);
    }
    t.ok((await ttl(`log:{${other.id}}`)) <= 300_000, 'the log of another stream does not');
    await untilDelivered(redis);
    const id = `evt_${asked.id}`;
    t.match(eventsOf(receiver), [{ id, header: id, type: 'response.incomplete', data: { id: `resp_${asked.id}` } }]);
    t.equal(receiver.calls.length, 1);
    t.equal(await redis.client.exists(`sluice:webhook:{${asked.id}}`), 0, 'the event is removed');

    t.equal(await b.storedResponses.delete(asked.id, ANONYMOUS), true);
    for (const app of [a, b]) t.equal(await find(app, asked.id), undefined);
    t.ok((await ttl(`log:{${asked.id}}`)) <= 300_000, 'the log then lives as long as any other');
    t.equal(await redis.client.exists(`sluice:${response}`), 0, 'the question is removed');
    await a.storedResponses.save(asked.id, ANONYMOUS, '{"input":1}');
    const left = await redis.client.keys('sluice:responses*');
    t.same([await find(b, asked.id), left.filter((key) => !key.includes('-bytes'))], [undefined, []], 'for good');
  });

  t.test('a running answer that is deleted is neither kept nor announced', async (t) => {
    const receiver = await startUpstream(t, ok);
    const replicas = await startReplicas(t, 2, { redis, env: hookEnv(receiver) });
    const [a, b] = two(replicas);
    const asked = await replicas.ask(a, ANONYMOUS, 'background');
    await a.storedResponses.save(asked.id, ANONYMOUS, '{}');
    await b.storedResponses.delete(asked.id, ANONYMOUS);
    asked.end(finish('stop'));
    await asked.ended;
    t.ok((await redis.client.pttl(`sluice:log:{${asked.id}}`)) <= 300_000);
    t.equal(await redis.client.exists(`sluice:response:{${asked.id}}`, `sluice:webhook:{${asked.id}}`), 0);
    await redis.client.zadd('sluice:webhooks', 0, asked.id);
    await untilDelivered(redis);
    t.equal(receiver.calls.length, 0);
  });

  t.test('an answer that has ended before its question is saved, and what has expired in the index', async (t) => {
    const [a] = (await startReplicas(t, 1, { redis })).apps as [FastifyInstance];
    await redis.client.hset('sluice:response:{early}', 'endedAt', 1);
    await a.storedResponses.save('early', ANONYMOUS, '{}');
    t.ok((await redis.client.pttl('sluice:response:{early}')) <= HOUR, 'it lives for the time after its end');
    const [index, bytes] = (await redis.client.keys('sluice:responses*')).sort().reverse() as [string, string];
    const before = Number(await redis.client.get(bytes));
    await redis.client.zadd(index, 1, 'old 5000');
    await redis.client.incrby(bytes, 5_000);
    await a.storedResponses.save('early', ANONYMOUS, '{}');
    t.equal(await redis.client.zscore(index, 'old 5000'), null, 'what has expired is taken out');
    t.equal(Number(await redis.client.get(bytes)), before, 'with its bytes');
  });

  t.test('a replica that dies between the end and the schedule, or while it delivers', async (t) => {
    let isHanging = false;
    const receiver = await startUpstream(t, (call) => (isHanging ? undefined : ok(call)));
    const replicas = await startReplicas(t, 2, { redis, env: hookEnv(receiver) });
    const [a] = two(replicas);
    // It dies before it can schedule the event.
    const add = a.webhooks?.add;
    Object.assign(a.webhooks as object, { add() {} });
    const asked = await replicas.ask(a, ANONYMOUS, 'background');
    await until(async () => (await redis.client.zcard('sluice:webhooks')) === 1, 'its end is expected');
    asked.end(finish('stop'));
    await asked.ended;
    Object.assign(a.webhooks as object, { add });
    t.equal(receiver.calls.length, 0);
    isHanging = true;
    // In place of the thirty seconds.
    await redis.client.zadd('sluice:webhooks', 0, asked.id);
    await receiver.call(1);
    t.ok(Number(await redis.client.hget(`sluice:webhook:{${asked.id}}`, 'until')) > Date.now(), 'it is claimed');
    await redis.client.zadd('sluice:webhooks', 0, asked.id);
    await until(async () => Number(await redis.client.zscore('sluice:webhooks', asked.id)) > 0, 'both have looked');
    t.equal(receiver.calls.length, 1, 'a claimed event is delivered by one replica');
    isHanging = false;
    // The replica that delivers dies: its claim ends.
    await redis.client.hset(`sluice:webhook:{${asked.id}}`, 'until', 1);
    await redis.client.zadd('sluice:webhooks', 0, asked.id);
    await untilDelivered(redis);
    t.same(
      eventsOf(receiver).map(({ header }) => header),
      [`evt_${asked.id}`, `evt_${asked.id}`],
      'the same event comes again',
    );
  });

  t.test('events and responses of a newer version are left alone', async (t) => {
    const receiver = await startUpstream(t, ok);
    const replicas = await startReplicas(t, 2, { redis, env: hookEnv(receiver) });
    const [a, b] = two(replicas);
    const asked = await replicas.ask(a, ANONYMOUS, 'foreground');
    await a.storedResponses.save(asked.id, ANONYMOUS, '{}');
    await redis.client.hset(`sluice:response:{${asked.id}}`, 'format', 2);
    await t.rejects(find(b, asked.id), UNAVAILABLE);
    await redis.client.hset('sluice:webhook:{x}', { format: 2, text: '{}', since: 1 });
    await redis.client.zadd('sluice:webhooks', 0, 'x');
    await until(async () => Number(await redis.client.zscore('sluice:webhooks', 'x')) > 0, 'somebody has looked');
    t.equal(await redis.client.exists('sluice:webhook:{x}'), 1);
    t.equal(receiver.calls.length, 0);
    asked.end(finish('stop'));
    await asked.ended;
  });

  t.test('questions of an owner are bounded by their bytes; the oldest is removed', async (t) => {
    const yaml = 'responses: { maxRequestChars: 16384, maxBytesPerOwner: 65536 }\n';
    const replicas = await startReplicas(t, 2, { redis, env: { CONFIG_FILE: writeConfig(t, yaml) } });
    await exceedBytes(t, replicas);
  });
});

t.test('without Redis, questions of an owner are bounded by their bytes', async (t) => {
  const yaml = 'responses: { maxRequestChars: 16384, maxBytesPerOwner: 65536 }\n';
  await exceedBytes(t, await startReplicas(t, 1, { env: { CONFIG_FILE: writeConfig(t, yaml) } }));
});

/** Saves four questions of 19 KB, of which 64 KB hold three. */
async function exceedBytes(t: Test, replicas: Replicas): Promise<void> {
  const [a] = replicas.apps as [FastifyInstance];
  const b = replicas.apps.at(-1) as FastifyInstance;
  t.throws(() => a.storedResponses.check('x'.repeat(16_385)), {
    statusCode: 413,
    code: 'invalid_request',
  } as unknown as Error);
  a.storedResponses.check('x'.repeat(16_384));
  const request = JSON.stringify('x'.repeat(9_000));
  const ids: string[] = [];
  for (let i = 0; i < 4; i++) {
    const asked = await replicas.ask(a, ANONYMOUS, 'foreground');
    await (i % 2 ? a : b).storedResponses.save(asked.id, ANONYMOUS, request);
    asked.end(finish('stop'));
    await asked.ended;
    ids.push(asked.id);
  }
  const kept = await Promise.all(ids.map(async (id) => (await find(b, id)) !== undefined));
  t.same(kept, [false, true, true, true]);
  const evicted = await Promise.all(
    [...new Set([a, b])].map((app) => metricValue(app, 'sluice_stored_responses_evicted_total')),
  );
  t.equal(
    evicted.reduce((sum, count) => sum + count, 0),
    1,
  );
}

t.test(
  'a Redis that is gone: nothing waits for it, and it gets everything when it is back',
  { skip: noRedis },
  async (t) => {
    const redis = await startRedis(t);
    const receiver = await startUpstream(t, ok);
    const replicas = await startReplicas(t, 2, { redis, env: hookEnv(receiver) });
    const [a, b] = two(replicas);
    const before = await replicas.ask(a, ANONYMOUS, 'background');
    await redis.stop();
    await until(() => [a, b].every(({ cluster }) => cluster?.connection.isAvailable === false), 'Redis is gone');
    const during = await replicas.ask(a, ANONYMOUS, 'background');
    for (const { id } of [before, during]) await a.storedResponses.save(id, ANONYMOUS, JSON.stringify(id));
    before.end(finish('stop'));
    during.end(finish('stop'));
    await Promise.all([before.ended, during.ended]);
    t.match(
      await find(a, during.id),
      { request: JSON.stringify(during.id), answer: { status: 'completed' } },
      'kept in this process',
    );
    await t.rejects(find(b, during.id), UNAVAILABLE);
    await t.rejects(b.storedResponses.delete(during.id, ANONYMOUS), UNAVAILABLE);
    t.equal(receiver.calls.length, 0);

    await redis.start();
    for (const { id } of [before, during]) {
      await until(
        async () => (await find(b, id).catch(() => undefined))?.answer !== undefined,
        'the other replica has it',
      );
      t.match(await find(b, id), { request: JSON.stringify(id), answer: { status: 'completed' } });
    }
    await until(() => receiver.calls.length === 2, 'both ends are announced');
    await untilDelivered(redis);
    t.same(new Set(eventsOf(receiver).map(({ id }) => id)), new Set([`evt_${before.id}`, `evt_${during.id}`]));
    t.equal(receiver.calls.length, 2, 'each once');
  },
);

t.test(
  'kill -9 and SIGTERM of the producer: the answer continues or is lost, and its end is announced once',
  { skip: noRedis },
  async (t) => {
    const redis = await startRedis(t);
    const receiver = await startUpstream(t, ok);
    const yaml = `
models:
  - { name: ends, targets: [{ provider: bella, model: gpt-4o }] }
  - { name: continues, targets: [{ provider: bella, model: gpt-4o }], onMidStreamFailure: continue }
`;
    const env = { ...hookEnv(receiver), CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'ends' };
    const replicas = await startReplicas(t, 3, { redis, env });
    const [a, b, c] = replicas.apps as [FastifyInstance, FastifyInstance, FastifyInstance];
    // Only answers of a credential that the other replica accepts are continued.
    const identity = { ...ANONYMOUS, credential: a.auth.findCredential('') };
    const lost = await replicas.ask(a, identity, 'background', 'ends');
    const continued = await replicas.ask(a, identity, 'background', 'continues');
    const released = await replicas.ask(
      c,
      { ...ANONYMOUS, credential: c.auth.findCredential('') },
      'background',
      'continues',
    );
    for (const { id } of [lost, continued, released]) await a.storedResponses.save(id, ANONYMOUS, '{}');
    await c.close();
    a.cluster?.connection.close();
    a.cluster?.mailbox.close();
    await until(() => replicas.calls === 5, 'the last replica asks again for those that it continues');
    continued.end(finish('stop'));
    released.end(finish('stop'));
    for (const [{ id }, status] of [
      [lost, 'failed'],
      [continued, 'completed'],
      [released, 'completed'],
    ] as const) {
      await until(async () => (await find(b, id))?.answer !== undefined, 'it has ended');
      t.equal((await find(b, id))?.answer?.status, status);
    }
    await until(() => receiver.calls.length === 3, 'all ends are announced');
    await untilDelivered(redis);
    t.same(
      new Set(eventsOf(receiver).map(({ id, type }) => `${id} ${type}`)),
      new Set([
        `evt_${lost.id} response.failed`,
        `evt_${continued.id} response.completed`,
        `evt_${released.id} response.completed`,
      ]),
    );
    t.equal(receiver.calls.length, 3, 'each once');
    lost.end(finish('stop'));
  },
);

t.test(
  'an emptied Redis gets log and question from the replica that has taken over an answer without readers',
  { skip: noRedis },
  async (t) => {
    const redis = await startRedis(t);
    const yaml = 'models: [{ name: m, targets: [{ provider: bella, model: gpt-4o }], onMidStreamFailure: continue }]\n';
    const env = { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'm' };
    const replicas = await startReplicas(t, 2, { redis, env });
    const [a, b] = two(replicas);
    const asked = await replicas.ask(a, { ...ANONYMOUS, credential: a.auth.findCredential('') }, 'background');
    await a.storedResponses.save(asked.id, ANONYMOUS, '{"input":1}');
    a.cluster?.connection.close();
    a.cluster?.mailbox.close();
    await until(() => replicas.calls === 2, 'the other replica asks again');
    t.match(await find(b, asked.id), { request: '{"input":1}' });
    const { mailbox, replica } = b.cluster as NonNullable<typeof b.cluster>;
    const messages: string[] = [];
    const { send } = mailbox;
    Object.assign(mailbox, { send: (to: string, kind: string) => messages.push(`${kind} ${to}`) });
    const reader = await (await b.streams.find(asked.id, ANONYMOUS))?.read(0);
    t.notOk(messages.includes(`follow ${replica}`), 'a reader here reads the log that is written, and not a copy');
    reader?.close();
    Object.assign(mailbox, { send });
    await redis.client.flushall();
    t.match(await find(b, asked.id), { request: '{"input":1}' }, 'found all the time');
    asked.end(finish('stop'));
    await until(async () => (await find(b, asked.id))?.answer !== undefined, 'it has ended');
    await until(async () => (await redis.client.hget(`sluice:response:{${asked.id}}`, 'question')) !== null, 'written');
    t.match(await find(b, asked.id), { request: '{"input":1}', answer: { status: 'completed' } });
    t.equal(replicas.calls, 2);
  },
);
