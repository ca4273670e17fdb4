import { ReplyError } from 'ioredis';
import t from 'tap';
import { RedisUnavailable } from '../../plugins/redis/connection.ts';
import { problem } from '../../plugins/redis/problems.ts';
import { settle } from './fake-redis.ts';
import { createRedisParts } from './redis-parts.ts';

/** The connection for commands: its time-outs, its circuit breaker and its probes, on a clock turned by hand. */

const COMMAND_MS = 250;
const RETRY_MS = 500;
const MAX_FAILURES = 5;

function setUp(options = {}) {
  const parts = createRedisParts(options);
  const { clock, connection } = parts;
  /** Runs a command that fails as `how` says, or is never answered; returns its error. */
  const fail = async (how: () => Promise<unknown> = () => new Promise(() => {})) => {
    const result = connection.run(how).catch((error: unknown) => error);
    await settle();
    clock.advance(COMMAND_MS);
    await settle();
    return result;
  };
  return { ...parts, fail };
}

t.test('is unavailable until Redis has accepted the lease', async (t) => {
  const { redis, connection, up, available } = setUp();
  t.equal(connection.isAvailable, false);
  const connecting = connection.connect(1_000);
  t.equal(redis.connects, 1);
  await t.rejects(
    connection.run(async () => t.fail('no command is sent')),
    RedisUnavailable,
  );
  redis.open();
  t.equal(connection.isAvailable, false);
  await connecting;
  t.equal(connection.isAvailable, true);
  t.equal(available(), 1);
  t.same(up, [0, 1]);
  t.equal(await connection.run(async () => 'PONG'), 'PONG');
});

t.test('connect: waits no longer than its time limit', async (t) => {
  const { connection, advance } = setUp();
  let isOver = false;
  void connection.connect(1_000).then(() => {
    isOver = true;
  });
  await advance(999, 111);
  t.equal(isOver, false);
  await advance(1);
  t.equal(isOver, true);
  t.equal(connection.isAvailable, false);
});

t.test('a command without a reply fails after 250 ms; a late reply is ignored', async (t) => {
  const { clock, connection, open, failures } = setUp();
  await open();
  let reply: (value: string) => void = () => {};
  let error: unknown;
  const command = connection
    .run(() => new Promise<string>((resolve) => (reply = resolve)))
    .catch((reason: unknown) => {
      error = reason;
    });
  clock.advance(COMMAND_MS - 1);
  await settle();
  t.equal(error, undefined);
  clock.advance(1);
  await command;
  t.ok(error instanceof RedisUnavailable);
  reply('late');
  await settle();
  t.same(failures, ['timeout']);
  t.equal(connection.isAvailable, true, 'one slow reply does not open the circuit breaker');
});

t.test('a reply that is in the socket at the deadline counts', async (t) => {
  const { clock, connection, open, failures } = setUp();
  await open();
  let reply: (value: string) => void = () => {};
  const command = connection.run(() => new Promise<string>((resolve) => (reply = resolve)));
  clock.advance(COMMAND_MS); // A long turn of the event loop.
  reply('in time');
  t.equal(await command, 'in time');
  await settle();
  t.same(failures, []);
});

t.test('opens the circuit breaker after five failures in a row, and closes it when the lease is renewed', async (t) => {
  const { redis, connection, open, fail, up, warnings, available, advance } = setUp();
  await open();
  redis.answers = false;
  const failing = Array.from({ length: MAX_FAILURES }, () =>
    connection.run(() => new Promise(() => {})).catch(() => {}),
  );
  await advance(COMMAND_MS - 1, 83);
  t.equal(connection.isAvailable, true);
  await advance(1);
  await Promise.all(failing);
  t.equal(connection.isAvailable, false, 'after five');
  t.equal(connection.isConnected, false, 'and nothing is read');
  t.same(up.at(-1), 0);
  t.match(warnings, [{ reason: 'timeout' }]);
  t.equal(warnings.length, 1, 'one log line');
  const send = async () => t.fail('no command is sent');
  for (const sending of [connection.run(send), connection.query(send), connection.read('key', send)])
    await t.rejects(sending, RedisUnavailable);
  redis.answers = true;
  const probes = redis.sent.length;
  await advance(RETRY_MS - 1, 499);
  t.equal(redis.sent.length, probes);
  await advance(1);
  t.equal(redis.sent.length, probes + 1, 'a probe is sent after 500 ms');
  t.equal(connection.isAvailable, true);
  t.equal(up.at(-1), 1);
  t.equal(available(), 2, 'listeners are called again');
  for (let i = 1; i < MAX_FAILURES; i++) await fail(() => Promise.reject(new Error('closed')));
  t.equal(connection.isAvailable, true, 'failures are counted from 0 again');
});

t.test('a reply resets the number of failures, also an error reply', async (t) => {
  const { connection, open } = setUp();
  await open();
  const failAtOnce = () => connection.run(() => Promise.reject(new Error('closed'))).catch(() => {});
  for (const reply of [async () => 'reply', () => Promise.reject(new ReplyError('WRONGTYPE x'))]) {
    for (let i = 1; i < MAX_FAILURES; i++) await failAtOnce();
    await connection.run<unknown>(reply).catch(() => {});
  }
  await failAtOnce();
  t.equal(connection.isAvailable, true);
  for (let i = 1; i < MAX_FAILURES; i++) await failAtOnce();
  t.equal(connection.isAvailable, false, 'five in a row');
});

t.test('errors of the connection count as failures, error replies do not', async (t) => {
  const { connection, open, fail, failures } = setUp();
  await open();
  for (const [message, reason] of [
    ['WRONGTYPE x', 'reply'],
    ['OOM command not allowed', 'oom'],
  ]) {
    for (let i = 0; i < 2 * MAX_FAILURES; i++) {
      const error = await fail(() => Promise.reject(new ReplyError(message as string)));
      t.ok(error instanceof ReplyError);
    }
    t.same(failures.splice(0), Array(2 * MAX_FAILURES).fill(reason));
  }
  t.equal(connection.isAvailable, true);
  for (let i = 0; i < MAX_FAILURES; i++) {
    const failing = connection.run(() => Promise.reject(new Error('Connection is closed.')));
    await t.rejects(failing, { name: 'RedisUnavailable', message: 'Connection is closed.' });
  }
  t.same(failures, Array(MAX_FAILURES).fill('connection'));
  t.equal(connection.isAvailable, false);
});

t.test('a closed connection is unavailable at once, and available after the next answer', async (t) => {
  const { redis, connection, open, available, warnings, infos, advance } = setUp();
  await open();
  t.same(warnings, []);
  redis.status = 'reconnecting';
  redis.emit('error', Object.assign(new Error('the text of an error'), { code: 'ECONNRESET' }));
  redis.emit('close');
  t.equal(connection.isAvailable, false);
  redis.emit('close');
  redis.emit('error', Object.assign(new Error('x'), { code: 'ECONNREFUSED' }));
  redis.emit('close');
  t.match(warnings, [{ reason: 'ECONNRESET' }], 'the code is logged');
  t.equal(warnings.length, 1, 'one log line for one outage');
  t.notMatch(JSON.stringify(warnings), 'the text of an error');
  const probes = redis.sent.length;
  await advance(3 * RETRY_MS, 100);
  t.equal(redis.sent.length, probes, 'no probe is sent without a connection');
  await open();
  t.equal(connection.isAvailable, true);
  t.equal(available(), 2);
  t.equal(infos.length, 2);
  redis.emit('close');
  t.equal(warnings.length, 2, 'the next outage is logged again');
});

t.test('a refused command asks for a probe, and for a self-test if only some commands may be refused', async (t) => {
  const { redis, connection, open, fail, health, warnings, selfTests, advance } = setUp();
  await open();
  await advance(300);
  redis.refusal = 'READONLY x';
  const probes = redis.sent.length;
  await fail(() => Promise.reject(new ReplyError('READONLY You cannot write')));
  t.equal(redis.sent.length, probes + 1, 'the lease is renewed at once');
  t.match(warnings, [{ reason: 'READONLY' }]);
  t.equal(connection.isAvailable, false);
  t.equal(health.works('lease'), false, 'nothing is written');
  t.equal(selfTests(), 0);
  redis.refusal = undefined;
  await open();
  await fail(() => Promise.reject(new ReplyError('NOPERM x')));
  t.ok(selfTests() >= 1);
});

t.test('while Redis refuses writes, it is read', async (t) => {
  const { redis, connection, open } = setUp();
  redis.refusal = 'OOM command not allowed';
  await open();
  t.equal(connection.isAvailable, false);
  t.equal(connection.isConnected, true);
  t.equal(await connection.query(async () => 'a reply'), 'a reply');
  await t.rejects(
    connection.run(async () => t.fail('no command is sent')),
    RedisUnavailable,
  );
});

t.test('close: nothing is sent any more, and no timer is pending', async (t) => {
  const { redis, connection, lease, clock, open, warnings, available } = setUp();
  await open();
  await lease.close();
  connection.close();
  t.equal(clock.pending, 0);
  t.same(redis.disconnects, [undefined], 'it does not reconnect');
  t.equal(connection.isAvailable, false);
  await open();
  t.equal(connection.isAvailable, false);
  t.equal(available(), 1);
  t.same(warnings, [], 'the close itself is not logged');
  await t.rejects(
    connection.run(async () => {}),
    RedisUnavailable,
  );
});

t.test('close while a probe is on its way', async (t) => {
  const { redis, connection, lease, clock, available } = setUp();
  redis.open();
  const closed = lease.close();
  connection.close();
  await closed;
  await settle();
  t.equal(connection.isAvailable, false);
  t.equal(available(), 0);
  t.equal(clock.pending, 0);
});

t.test('in a cluster, failures of commands say nothing about the other nodes; the lease does', async (t) => {
  const { connection, open, fail, failures, redis, advance, available } = setUp({ isCluster: true });
  await open();
  for (let i = 0; i < 3 * MAX_FAILURES; i++) t.ok((await fail()) instanceof RedisUnavailable);
  t.equal(failures.length, 3 * MAX_FAILURES, 'they are counted');
  t.equal(connection.isAvailable, true);
  t.equal(available(), 1, 'all the time');
  redis.answers = false;
  await advance(5_000);
  t.equal(connection.isAvailable, false);
});

t.test('together: commands leave in one packet, also if one of them throws', async (t) => {
  const { connection, redis } = setUp();
  const calls: string[] = [];
  connection.together(() => calls.push('without a connection'));
  Object.assign(redis, { stream: { cork: () => calls.push('cork'), uncork: () => calls.push('uncork') } });
  connection.together(() => calls.push('send'));
  t.throws(() =>
    connection.together(() => {
      throw new Error('a fault');
    }),
  );
  t.same(calls, ['without a connection', 'cork', 'send', 'uncork', 'cork', 'uncork']);
});

t.test('Sentinels that do not answer are reported, although no connection is closed', async (t) => {
  const { redis, warnings } = setUp();
  redis.emit('error', new Error('All sentinels are unreachable. Retrying from scratch after 50ms.'));
  t.match(warnings, [{ reason: 'no_sentinel', hint: /REDIS_SENTINEL_PASSWORD/ }]);
  redis.emit('error', Object.assign(new Error('x'), { name: 'ClusterAllFailedError' }));
  redis.emit('close');
  t.equal(warnings.length, 1, 'one line for an outage of the network');
});

t.test('a reason without details is not logged after the same one with details', async (t) => {
  const { health, warnings } = setUp();
  health.report('connection', undefined);
  health.report('rights', problem('NOPERM', ['command xadd']));
  health.report('rights', undefined);
  health.report('lease', problem('NOPERM'));
  t.match(warnings, [{ reason: 'NOPERM', missing: ['command xadd'] }]);
  t.equal(warnings.length, 1);
  health.report('rights', problem('NOPERM', ['command xrange']));
  t.equal(warnings.length, 2, 'other details are');
});
