import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:tls';
import type { FastifyInstance } from 'fastify';
import t, { type Test } from 'tap';
import { CERT, KEY } from './certificate.ts';
import { bellaAt, captureLog, serve, until } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { freePort, noRedis, type RedisServer, startRedis } from './redis.ts';
import { startOneNodeCluster } from './redis-cluster.ts';
import { deltaText, open, readAll } from './sse-client.ts';
import { completeAnswer, DONE, STOP, startUpstream, text, type Upstream, unfinishedAnswer } from './upstream.ts';

/** A real Redis that refuses: what readers see, what is logged, `sluice_redis_up` and `/readyz`. */

const PASSWORD = 'secret-of-redis';
/** The rights that docs/operations.md gives to the user of the service. */
const [, ACL_LINE = ''] = /^ACL SETUSER (.*)$/m.exec(readFileSync('docs/operations.md', 'utf8')) ?? [];
const RIGHTS = ACL_LINE.replace('PASSWORD', PASSWORD).split(' ');

interface Replica {
  readonly app: FastifyInstance;
  readonly url: string;
  /** Log lines about Redis, without the first `count`. */
  redisLines(count?: number): { msg: string; reason?: string; missing?: string[] }[];
  log(): string;
}

async function startReplica(t: Test, env: Record<string, string>): Promise<Replica> {
  const { logTo, log } = captureLog();
  const { app, url } = await serve(t, { env, logTo });
  const redisLines = (count = 0) =>
    log()
      .split('\n')
      .filter((line) => line.includes('"msg":"redis '))
      .map((line) => JSON.parse(line))
      .slice(count);
  return { app, url, log, redisLines };
}

const urlOf = ({ port }: RedisServer, user = `sluice:${PASSWORD}`) => `redis://${user}@127.0.0.1:${port}`;
const isUp = async ({ app }: Replica) => (await metricValue(app, 'sluice_redis_up')) === 1;
const readyz = async ({ url }: Replica) => (await fetch(`${url}/readyz`)).status;

/** Two replicas that use Redis with the rights of the documentation. */
async function startReplicas(t: Test, redis: RedisServer, upstream: Upstream, more: Record<string, string> = {}) {
  const env = bellaAt(upstream.url, { REDIS_URL: urlOf(redis), REDIS_REQUIRED: 'true', ...more });
  const replicas = (await Promise.all([startReplica(t, env), startReplica(t, env)])) as [Replica, Replica];
  await until(async () => (await isUp(replicas[0])) && (await isUp(replicas[1])), 'both replicas share streams');
  return replicas;
}

interface Row {
  readonly reason: string;
  readonly missing?: string[];
  /** True if only a write of a stream shows it, so that a replica without streams does not notice. */
  readonly needsWrite?: boolean;
  /** True if only messages do not arrive, so that streams are still written. */
  readonly isWritten?: boolean;
  fail(redis: RedisServer): Promise<unknown>;
  heal(redis: RedisServer): Promise<unknown>;
}

const config = (name: string, broken: string, good: string) => ({
  fail: ({ client }: RedisServer) => client.config('SET', name, broken),
  heal: ({ client }: RedisServer) => client.config('SET', name, good),
});
const acl = (missing: string[], broken: string, good: string, more: { isWritten?: true; needsWrite?: true } = {}) => ({
  reason: 'NOPERM',
  missing,
  ...more,
  fail: ({ client }: RedisServer) => client.call('ACL', 'SETUSER', 'sluice', broken),
  heal: ({ client }: RedisServer) => client.call('ACL', 'SETUSER', 'sluice', good),
});

const ROWS: Record<string, Row> = {
  'out of memory': { reason: 'OOM', ...config('maxmemory', '1', '0') },
  'too few replicas': { reason: 'NOREPLICAS', ...config('min-replicas-to-write', '1', '0') },
  'a failed snapshot': {
    reason: 'MISCONF',
    async fail({ client }) {
      await client.config('SET', 'save', '3600 1');
      await client.bgsave();
      await until(
        async () => (await client.info('persistence')).includes('bgsave_status:err'),
        'the snapshot has failed',
      );
    },
    heal: ({ client }) => client.config('SET', 'save', ''),
  },
  'a primary that became a replica': {
    reason: 'READONLY',
    fail: async ({ client }) => client.replicaof('127.0.0.1', await freePort()),
    heal: ({ client }) => client.replicaof('NO', 'ONE'),
  },
  'a slow script of another client': {
    reason: 'BUSY',
    async fail(redis) {
      await redis.client.config('SET', 'busy-reply-threshold', '1');
      const other = redis.client.duplicate({ retryStrategy: () => null });
      other.on('error', () => {});
      other
        .eval('while true do end', 0)
        .catch(() => {})
        .finally(() => other.disconnect());
    },
    heal: ({ client }) => client.call('SCRIPT', 'KILL'),
  },
  'the command of the lease taken away': acl(['command set'], '-set', '+set'),
  'a command of streams taken away': acl(['command xadd'], '-xadd', '+xadd', { needsWrite: true }),
  'all keys taken away': acl(['keys ~sluice:*'], 'resetkeys', '~sluice:*'),
  'all channels taken away': acl(['channels &sluice:*'], 'resetchannels', '&sluice:*', { isWritten: true }),
};

t.test('Redis refuses while streams run', { skip: noRedis }, async (t) => {
  t.jobs = 4;
  t.setTimeout(120_000); // Other tests of the suite may use the cores.
  for (const [name, { reason, missing, isWritten, needsWrite, fail, heal }] of Object.entries(ROWS)) {
    t.test(`${name}: ${reason}`, async (t) => {
      const dir = t.testdir({});
      const redis = await startRedis(t, '--dir', dir);
      mkdirSync(`${dir}/dump.rdb`); // A snapshot fails because a directory has its name.
      await redis.client.call('ACL', 'SETUSER', ...RIGHTS);
      const upstream = await startUpstream(t, unfinishedAnswer('one '));
      const [a, b] = await startReplicas(t, redis, upstream);
      const local = await open(`${a.url}/ask/stream?question=q`);
      const call = await upstream.call(1);
      const { json } = await local.until('start');
      const remote = await open(`${b.url}${json.url}`);
      await Promise.all([local.until('delta'), remote.until('delta')]);
      const resumable = () => local.events.findLast(({ json }) => 'resumable' in json)?.json.resumable;
      // A busy machine can be too slow for Redis at first.
      await until(() => resumable() === true, 'the stream is resumable');
      const [linesA, linesB] = [a.redisLines().length, b.redisLines().length];

      await fail(redis);
      if (needsWrite) call.response.write(text('two '));
      const affected = needsWrite ? [a] : [a, b];
      for (const replica of affected) {
        await until(async () => !(await isUp(replica)), 'sluice_redis_up is 0');
        t.equal(await readyz(replica), 503, 'not ready with REDIS_REQUIRED');
      }
      await until(() => resumable() === false, 'the reader is told');
      if (!needsWrite) call.response.write(text('two '));
      await until(() => deltaText(local) === 'one two ', 'the stream goes on');
      if (isWritten) await until(() => deltaText(remote) === 'one two ', 'also on the other replica');
      const during = await open(`${a.url}/ask/stream?question=q`);
      t.equal((await during.until('start')).json.resumable, false, 'a new stream says so');
      (await upstream.call(2)).response.end(STOP + DONE);
      t.equal((await during.until('end')).json.answer, 'one ');

      await heal(redis);
      await until(async () => (await isUp(a)) && (await isUp(b)), 'sluice_redis_up is 1');
      t.same([await readyz(a), await readyz(b)], [200, 200]);
      await until(() => resumable() === true, 'the reader is told again');
      call.response.end(text('three') + STOP + DONE);
      for (const reading of [local, remote]) {
        t.equal((await reading.until('end')).json.answer, 'one two three');
        t.equal(deltaText(reading), 'one two three', 'the deltas make the complete answer');
      }
      for (const lines of [a.redisLines(linesA), ...(needsWrite ? [] : [b.redisLines(linesB)])]) {
        t.match(lines, [{ reason, hint: /./, ...(missing && { missing }) }, { msg: 'redis available' }]);
        t.equal(lines.length, 2, `one line for the outage: ${JSON.stringify(lines)}`);
      }
      t.equal(await metricValue(b.app, 'sluice_takeovers_total'), 0);
      t.notMatch(a.log() + b.log(), PASSWORD, 'no line has the password');
    });
  }
});

t.test('the rights of the documentation are enough, and all of them are needed', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  await redis.client.call('ACL', 'SETUSER', ...RIGHTS);
  const [a, b] = await startReplicas(t, redis, upstream);
  const key = '0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b';
  const first = await open(`${a.url}/ask/stream?question=q&key=${key}`);
  const { json } = await first.until('start');
  const second = await open(`${b.url}/ask/stream?question=q&key=${key}`);
  t.equal((await second.until('start')).json.stream, json.stream, 'the same stream on both replicas');
  t.equal((await fetch(`${b.url}${json.url}`, { method: 'DELETE' })).status, 204);
  for (const reading of [first, second]) t.equal((await reading.until('end')).json.finishReason, 'stopped');
  t.same(await redis.client.call('ACL', 'LOG'), [], 'Redis has refused nothing');
  t.same(a.redisLines(), [], 'nothing is logged');

  const optional = new Set(['info', 'client|setname']);
  const commands = RIGHTS.filter((right) => right.startsWith('+')).map((right) => right.slice(1));
  const testWithout = async (command: string) => {
    const user = `without-${command}`;
    await redis.client.call('ACL', 'SETUSER', user, ...RIGHTS.slice(1), `-${command}`);
    const env = bellaAt(upstream.url, { REDIS_URL: urlOf(redis, `${user}:${PASSWORD}`) });
    const replica = await startReplica(t, env);
    await until(() => replica.redisLines().length > 0, 'it is logged');
    t.match(replica.redisLines(), [{ reason: 'NOPERM', missing: [`command ${command}`] }], command);
    t.equal(await isUp(replica), false, `sluice_redis_up without ${command}`);
  };
  await Promise.all(commands.filter((name) => !optional.has(name)).map(testWithout));
});

t.test('the rights of the documentation have every command of the scripts', async (t) => {
  const scripts = readdirSync('plugins', { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.lua'));
  t.ok(scripts.length > 5);
  for (const name of scripts) {
    for (const [, command = ''] of readFileSync(`plugins/${name}`, 'utf8').matchAll(/redis\.call\('(\w+)'/g)) {
      t.ok(RIGHTS.includes(`+${command.toLowerCase()}`), `${name} calls ${command}`);
    }
  }
});

t.test('Redis cannot be used at the start: one line with the reason', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, completeAnswer('x'));
  await redis.client.call('ACL', 'SETUSER', ...RIGHTS);
  await redis.client.call('ACL', 'SETUSER', 'default', `>${PASSWORD}`, 'resetpass', `>${PASSWORD}`);
  const dir = t.testdir({ 'sentinel.conf': 'protected-mode no\n', cluster: {} });
  const cluster = await startRedis(t, '--cluster-enabled', 'yes', '--dir', `${dir}/cluster`);
  const tls = createServer({ key: KEY, cert: CERT })
    .on('tlsClientError', () => {})
    .listen(0, '127.0.0.1');
  await once(tls, 'listening');
  t.teardown(() => tls.close());
  const cases: [reason: string | RegExp, url: string][] = [
    ['WRONGPASS', urlOf(redis, 'sluice:wrong-word')],
    ['WRONGPASS', urlOf(redis, 'nobody:wrong-word')],
    ['NOAUTH', `redis://127.0.0.1:${redis.port}`],
    ['ECONNREFUSED', `redis://u:${PASSWORD}@127.0.0.1:${await freePort()}`],
    // Without a name server, the resolver does not know whether the name exists.
    [/^(ENOTFOUND|EAI_AGAIN)$/, `redis://u:${PASSWORD}@no-such-host.invalid`],
    ['DEPTH_ZERO_SELF_SIGNED_CERT', `rediss://u:${PASSWORD}@127.0.0.1:${(tls.address() as AddressInfo).port}`],
    ['CLUSTERDOWN', cluster.url],
    ['no_cluster', (await startRedis(t)).url.replace('redis', 'redis+cluster')],
    ['WRONGPASS', urlOf(redis, 'sluice:wrong-word').replace('redis', 'redis+cluster')],
    ['no_node', `redis+cluster://u:${PASSWORD}@127.0.0.1:${await freePort()}`],
    ['no_sentinel', `redis+sentinel://u:${PASSWORD}@127.0.0.1:${await freePort()}/main`],
    ['unknown_command', (await startRedis(t, `${dir}/sentinel.conf`, '--sentinel')).url],
  ];
  t.jobs = cases.length;
  for (const [reason, url] of cases) {
    t.test(`${reason}`, async (t) => {
      const replica = await startReplica(t, bellaAt(upstream.url, { REDIS_URL: url, REDIS_REQUIRED: 'true' }));
      // A busy machine can be too slow for a command, a connection or the list of nodes.
      const isSlow = (found: string) => found !== reason && ['timeout', 'ETIMEDOUT', 'no_node'].includes(found);
      const lines = () => replica.redisLines().filter(({ reason: found = '' }) => !isSlow(found));
      await until(() => lines().length > 0, 'it is logged');
      t.match(lines(), [{ reason, hint: /./ }]);
      t.equal(await isUp(replica), false);
      t.equal(await readyz(replica), 503);
      const reading = await readAll(`${replica.url}/ask/stream?question=q`);
      t.match(reading.events[0]?.json, { type: 'start', resumable: false });
      t.equal(reading.events.at(-1)?.json.answer, 'x', 'the answer is complete');
      for (const secret of [PASSWORD, 'wrong-word', '@127.0.0.1', '@no-such']) t.notMatch(replica.log(), secret);
      t.equal(lines().length, 1, `one line: ${JSON.stringify(lines())}`);
    });
  }
});

t.test('a cluster of one node works without and with cluster mode in the address', { skip: noRedis }, async (t) => {
  const redis = await startOneNodeCluster(t);
  const upstream = await startUpstream(t, completeAnswer('x'));
  const inCluster = ['+spublish', '+ssubscribe', '+cluster|slots', '+asking'];
  t.ok(readFileSync('docs/operations.md', 'utf8').includes(`add \`${inCluster.join(' ')}\``), 'as documented');
  for (const [scheme, rights] of [
    ['redis', []],
    ['redis+cluster', [...inCluster, '-publish', '-subscribe']],
  ] as const) {
    await redis.client.call('ACL', 'SETUSER', ...RIGHTS, ...rights);
    const REDIS_URL = urlOf(redis).replace('redis', scheme);
    const [a, b] = await startReplicas(t, redis, upstream, { REDIS_URL });
    const reading = await readAll(`${a.url}/ask/stream?question=q&key=${randomUUID()}`);
    t.match(reading.events[0]?.json, { resumable: true });
    const again = await readAll(`${b.url}${reading.events[0]?.json.url}`);
    t.equal(again.events.at(-1)?.json.answer, 'x', 'read on the other replica');
    t.same([...a.redisLines(), ...b.redisLines()], [], 'nothing is logged');
    t.same(await redis.client.call('ACL', 'LOG'), [], 'Redis has refused nothing');
  }
});

t.test('the eviction policy is read at each connect, and a wrong one is logged once', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, completeAnswer('x'));
  const policies = ['allkeys-lru', 'allkeys-lfu', 'allkeys-random', 'volatile-lru', 'volatile-lfu', 'volatile-random'];
  for (const policy of [...policies, 'volatile-ttl', 'noeviction']) {
    await redis.client.config('SET', 'maxmemory-policy', policy);
    const replica = await startReplica(t, bellaAt(upstream.url, { REDIS_URL: redis.url }));
    const warnings = () => replica.redisLines().filter(({ msg }) => msg.includes('evict'));
    const reconnect = async () => {
      const { log } = replica;
      const before = log().length;
      await redis.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      await until(() => log().slice(before).includes('redis available'), 'it is connected again');
    };
    await until(() => policy === 'noeviction' || warnings().length > 0, 'it is logged');
    if (policy === 'volatile-ttl' || policy === 'noeviction') await reconnect();
    t.match(warnings(), policy === 'noeviction' ? [] : [{ policy, hint: /noeviction/ }]);
    t.equal(warnings().length, policy === 'noeviction' ? 0 : 1, `once: ${policy}`);
    t.equal(await isUp(replica), true);
    await replica.app.close();
  }
  await redis.client.call('ACL', 'SETUSER', 'less', ...RIGHTS.slice(1), '-info');
  const replica = await startReplica(t, bellaAt(upstream.url, { REDIS_URL: urlOf(redis, `less:${PASSWORD}`) }));
  t.same([await isUp(replica), replica.redisLines()], [true, []], 'a user that may not read it');
});
