import type { Redis } from 'ioredis';
import { ReplyError } from 'ioredis';
import t from 'tap';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { createRedisConnection, RedisUnavailable } from '../../plugins/redis/connection.ts';
import { deferred } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { FakeRedis, settle } from './fake-redis.ts';

/** The connection for commands: its time-outs, its circuit breaker and its probes, on a clock turned by hand. */

const COMMAND_MS = 250;
const PROBE_MS = 500;
const MAX_FAILURES = 5;

function setUp() {
  const clock = manualClock();
  const redis = new FakeRedis();
  const failures: string[] = [];
  const up: number[] = [];
  const warnings: unknown[] = [];
  const metrics = {
    redisUp: { set: (value: number) => up.push(value) },
    redisFailures: { inc: ({ reason }: { reason: string }) => failures.push(reason) },
  } as unknown as Metrics;
  const log = { warn: (entry: unknown) => warnings.push(entry), info() {} } as never;
  const connection = createRedisConnection(redis as unknown as Redis, { clock, metrics, log });
  let available = 0;
  connection.onAvailable(() => {
    available += 1;
  });
  const open = async () => {
    redis.open();
    await settle();
  };
  /** Runs a command that fails as `how` says, or is never answered; returns its error. */
  const fail = async (how: () => Promise<unknown> = () => new Promise(() => {})) => {
    const result = connection.run(how).catch((error: unknown) => error);
    await settle();
    clock.advance(COMMAND_MS);
    await settle();
    return result;
  };
  return { clock, redis, connection, failures, up, warnings, available: () => available, open, fail };
}

t.test('is unavailable until Redis has answered', async (t) => {
  const { redis, connection, up, available, clock } = setUp();
  t.equal(connection.isAvailable, false);
  const connecting = connection.connect(1_000);
  t.equal(redis.connects, 1);
  let called = false;
  await t.rejects(
    connection.run(async () => {
      called = true;
    }),
    RedisUnavailable,
  );
  t.equal(called, false, 'no command is sent');
  redis.open();
  t.equal(connection.isAvailable, false);
  await connecting;
  t.equal(connection.isAvailable, true);
  t.equal(available(), 1);
  t.same(up, [0, 1]);
  t.equal(await connection.run(async (client) => client.ping()), 'PONG');
  t.equal(clock.pending, 0, 'no timer is pending');
});

t.test('connect: waits no longer than its time limit', async (t) => {
  const { clock, connection } = setUp();
  const state = deferred();
  let isOver = false;
  void connection.connect(1_000).then(() => {
    isOver = true;
    state.resolve();
  });
  clock.advance(999);
  await settle();
  t.equal(isOver, false);
  clock.advance(1);
  await state.promise;
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
  t.equal(clock.pending, 0);
});

t.test('opens the circuit breaker after five failures in a row, and closes it when a probe is answered', async (t) => {
  const { clock, redis, connection, open, fail, up, warnings, available } = setUp();
  await open();
  for (let i = 1; i < MAX_FAILURES; i++) await fail();
  t.equal(connection.isAvailable, true, 'after four failures');
  await fail();
  t.equal(connection.isAvailable, false, 'after five');
  t.same(up.at(-1), 0);
  t.same(warnings, [{ reason: 'timeout' }], 'one log line');
  await t.rejects(
    connection.run(async () => t.fail('no command is sent')),
    RedisUnavailable,
  );
  const probes = redis.pings;
  clock.advance(PROBE_MS - 1);
  t.equal(redis.pings, probes);
  clock.advance(1);
  t.equal(redis.pings, probes + 1, 'a probe is sent after 500 ms');
  await settle();
  t.equal(connection.isAvailable, true);
  t.equal(up.at(-1), 1);
  t.equal(available(), 2, 'listeners are called again');
  t.equal(clock.pending, 0);
  for (let i = 1; i < MAX_FAILURES; i++) await fail();
  t.equal(connection.isAvailable, true, 'failures are counted from 0 again');
});

t.test('a reply resets the number of failures', async (t) => {
  const { connection, open, fail } = setUp();
  await open();
  for (let round = 0; round < 3; round++) {
    for (let i = 1; i < MAX_FAILURES; i++) await fail();
    await connection.run(async () => 'reply');
  }
  t.equal(connection.isAvailable, true);
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
    const error = await fail(() => Promise.reject(new Error('Connection is closed.')));
    t.ok(error instanceof RedisUnavailable);
    t.equal((error as Error).message, 'Connection is closed.');
  }
  t.same(failures, Array(MAX_FAILURES).fill('connection'));
  t.equal(connection.isAvailable, false);
});

t.test('a closed connection is unavailable at once, and available after the next answer', async (t) => {
  const { redis, connection, clock, open, available, warnings } = setUp();
  redis.emit('close');
  t.same(warnings, [], 'a connection that was never available is not lost');
  await open();
  redis.status = 'reconnecting';
  redis.emit('error', new Error('ECONNRESET'));
  redis.emit('close');
  t.equal(connection.isAvailable, false);
  redis.emit('close');
  t.same(warnings, [{ reason: 'connection' }], 'one log line');
  const pings = redis.pings;
  clock.advance(3 * PROBE_MS);
  await settle();
  t.equal(redis.pings, pings, 'no probe is sent without a connection');
  await open();
  t.equal(connection.isAvailable, true);
  t.equal(available(), 2);
  clock.advance(10 * PROBE_MS);
  await settle();
  t.equal(redis.pings, pings + 1, 'no further probe');
});

t.test('a connection that answers six probes in a row with silence is opened again', async (t) => {
  const { redis, connection, clock, open, fail } = setUp();
  await open();
  redis.answers = false;
  for (let i = 0; i < MAX_FAILURES; i++) await fail();
  for (let i = 1; i <= 6; i++) {
    t.same(redis.disconnects, [], `before probe ${i} times out`);
    clock.advance(PROBE_MS);
    await settle();
    clock.advance(COMMAND_MS);
    await settle();
  }
  t.same(redis.disconnects, [true], 'it reconnects');
  t.equal(connection.isAvailable, false);
  redis.answers = true;
  await open();
  t.equal(connection.isAvailable, true);
});

t.test('only probes in a row count, and only on an open connection', async (t) => {
  const { redis, clock, open, fail } = setUp();
  await open();
  const probe = async () => {
    clock.advance(PROBE_MS);
    await settle();
    clock.advance(COMMAND_MS);
    await settle();
  };
  const openBreaker = async () => {
    redis.answers = false;
    for (let i = 0; i < MAX_FAILURES; i++) await fail();
  };
  const probeFiveTimes = async () => {
    for (let i = 0; i < 5; i++) await probe();
  };
  await openBreaker();
  await probeFiveTimes();
  redis.answers = true;
  await probe();
  await openBreaker();
  await probeFiveTimes();
  t.same(redis.disconnects, [], 'an answer resets the count');
  redis.status = 'connecting';
  await probe();
  redis.status = 'ready';
  await probeFiveTimes();
  t.same(redis.disconnects, [], 'a lost connection resets the count');
  await probe();
  t.same(redis.disconnects, [true]);
});

t.test('close: nothing is sent any more, and no timer is pending', async (t) => {
  const { redis, connection, clock, open, warnings, available } = setUp();
  await open();
  redis.answers = false;
  redis.emit('close');
  connection.close();
  t.equal(clock.pending, 0);
  t.same(redis.disconnects, [undefined], 'it does not reconnect');
  t.equal(connection.isAvailable, false);
  redis.answers = true;
  await open();
  t.equal(connection.isAvailable, false);
  t.equal(available(), 1);
  t.equal(warnings.length, 1, 'the close itself is not logged');
  await t.rejects(
    connection.run(async () => {}),
    RedisUnavailable,
  );
});

t.test('close while a probe is on its way', async (t) => {
  const { redis, connection, clock, available } = setUp();
  redis.open();
  connection.close();
  await settle();
  t.equal(connection.isAvailable, false);
  t.equal(available(), 0);
  t.equal(clock.pending, 0);
});
