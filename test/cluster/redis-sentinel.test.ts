import { randomUUID } from 'node:crypto';
import t from 'tap';
import { bellaAt, captureLog, serve, until } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { freePort, noRedis, startRedis } from '../redis.ts';
import { deltaText, open, readAll } from '../sse-client.ts';
import { DONE, STOP, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

/** Two replicas of the service find the primary through Sentinels: the primary is killed, and its replica takes its place. */

const NAME = 'main';
const REDIS_PASSWORD = 'secret-of-redis';
const PASSWORD = 'secret-of-sentinel';
const SENTINELS = 3;

t.test(
  'streams go on after a failover by Sentinels, and can be resumed again',
  { skip: noRedis, timeout: 90_000 },
  async (t) => {
    const passwords = ['--requirepass', REDIS_PASSWORD, '--masterauth', REDIS_PASSWORD];
    const primary = await startRedis(t, ...passwords, '--repl-diskless-sync-delay', '0');
    const replica = await startRedis(t, ...passwords, '--replicaof', `127.0.0.1 ${primary.port}`);
    await until(
      async () => (await replica.client.info('replication')).includes('master_link_status:up'),
      'it is a replica',
    );
    const config = [
      `sentinel monitor ${NAME} 127.0.0.1 ${primary.port} 2`,
      `sentinel auth-pass ${NAME} ${REDIS_PASSWORD}`,
      `sentinel down-after-milliseconds ${NAME} 1000`,
      `sentinel failover-timeout ${NAME} 5000`,
      `sentinel sentinel-pass ${PASSWORD}`,
      '',
    ].join('\n');
    const dir = t.testdir(Object.fromEntries(Array.from({ length: SENTINELS }, (_, i) => [`${i}.conf`, config])));
    const sentinels = await Promise.all(
      Array.from({ length: SENTINELS }, (_, i) =>
        startRedis(t, `${dir}/${i}.conf`, '--sentinel', '--requirepass', PASSWORD),
      ),
    );
    const [sentinel] = sentinels as [(typeof sentinels)[number]];
    const infoOf = async () => String(await sentinel.client.call('INFO', 'sentinel'));
    await until(
      async () => (await infoOf()).includes(`slaves=1,sentinels=${SENTINELS}`),
      'the Sentinels know all',
      30_000,
    );

    const upstream = await startUpstream(t, unfinishedAnswer('one '));
    // The first one does not exist: the client asks the next.
    const hosts = [await freePort(), ...sentinels.map(({ port }) => port)].map((port) => `127.0.0.1:${port}`).join(',');
    const env = bellaAt(upstream.url, {
      REDIS_URL: `redis+sentinel://:${REDIS_PASSWORD}@${hosts}/${NAME}`,
      REDIS_SENTINEL_PASSWORD: PASSWORD,
    });
    const { logTo, log } = captureLog();
    const [a, b] = [await serve(t, { env, logTo }), await serve(t, { env, logTo })];
    const areUp = async (value: number) =>
      (await metricValue(a.app, 'sluice_redis_up')) === value &&
      (await metricValue(b.app, 'sluice_redis_up')) === value;
    await until(() => areUp(1), 'both replicas share streams');
    const key = randomUUID();
    const local = await open(`${a.url}/ask/stream?question=q&key=${key}`);
    const { json } = await local.until('start');
    const remote = await open(`${b.url}${json.url}`);
    await Promise.all([local.until('delta'), remote.until('delta')]);
    const call = await upstream.call(1);

    await primary.stop();
    await until(() => areUp(0), 'it is noticed');
    call.response.write(text('two '));
    await until(() => deltaText(local) === 'one two ', 'the stream goes on without Redis');
    await until(() => areUp(1), 'both replicas use the new primary', 30_000);
    t.match(await replica.client.role(), ['master']);
    await until(() => deltaText(remote) === 'one two ', 'the other replica gets what it has missed');
    call.response.end(text('three') + STOP + DONE);
    for (const reading of [local, remote]) {
      t.equal((await reading.until('end')).json.answer, 'one two three');
      t.equal(deltaText(reading), 'one two three', 'each token comes once');
    }
    const again = await readAll(`${b.url}/ask/stream?question=q&key=${key}`);
    t.equal(again.events.at(-1)?.json.answer, 'one two three', 'the idempotency key leads to the stream');
    t.equal(upstream.calls.length, 1, 'one call');
    for (const secret of [PASSWORD, REDIS_PASSWORD]) t.notMatch(log(), secret, 'no line has a password');
  },
);
