import { EventEmitter } from 'node:events';
import type { Redis } from 'ioredis';
import { ReplyError } from 'ioredis';
import t from 'tap';
import type { Clock } from '../../plugins/clock.ts';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { createRedisConnection, RedisUnavailable } from '../../plugins/redis/connection.ts';
import { createLease } from '../../plugins/redis/lease.ts';
import { createMailbox } from '../../plugins/redis/mailbox.ts';
import { deferred } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';

/** The connections to Redis, the mailbox and the lease: all time-outs and thresholds, on a clock turned by hand. */

const COMMAND_MS = 250;
const PROBE_MS = 500;
const MAX_FAILURES = 5;
const CHECK_MS = 2_000;
const [LEASE_MS, RENEW_MS] = [5_000, 1_000];

/** Lets promises and immediates run. */
async function settle(): Promise<void> {
  for (let i = 0; i < 4; i++) await new Promise(setImmediate);
}

/** A client of Redis whose replies the test decides. */
class FakeRedis extends EventEmitter {
  status = 'wait';
  /** If false, no command is answered. */
  answers = true;
  pings = 0;
  subscribes = 0;
  disconnects: unknown[] = [];
  connects = 0;
  async connect() {
    this.connects += 1;
  }
  ping() {
    this.pings += 1;
    return this.#reply('PONG');
  }
  subscribe() {
    this.subscribes += 1;
    return this.#reply(1);
  }
  disconnect(isReconnecting?: boolean) {
    this.disconnects.push(isReconnecting);
    this.status = 'reconnecting';
    this.emit('close');
  }
  open() {
    this.status = 'ready';
    this.emit('ready');
  }
  #reply(value: unknown) {
    return this.answers ? Promise.resolve(value) : new Promise<never>(() => {});
  }
}

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

t.test('connection', async (t) => {
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

  t.test(
    'opens the circuit breaker after five failures in a row, and closes it when a probe is answered',
    async (t) => {
      const { clock, redis, connection, open, fail, up, warnings, available } = setUp();
      await open();
      for (let i = 1; i < MAX_FAILURES; i++) await fail();
      t.equal(connection.isAvailable, true, 'after four failures');
      await fail();
      t.equal(connection.isAvailable, false, 'after five');
      t.same(up.at(-1), 0);
      t.equal(warnings.length, 1, 'one log line');
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
      t.equal(connection.isAvailable, true, 'failures are counted anew');
    },
  );

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
    const { redis, connection, clock, open, available } = setUp();
    await open();
    redis.status = 'reconnecting';
    redis.emit('error', new Error('ECONNRESET'));
    redis.emit('close');
    t.equal(connection.isAvailable, false);
    redis.emit('close');
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
    t.same(redis.disconnects, [], 'an answer starts the count anew');
    redis.status = 'connecting';
    await probe();
    redis.status = 'ready';
    await probeFiveTimes();
    t.same(redis.disconnects, [], 'a lost connection starts the count anew');
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
});

t.test('mailbox', async (t) => {
  const setUpMailbox = () => {
    const clock = manualClock();
    const subscriber = new FakeRedis();
    const published: unknown[][] = [];
    const connection = {
      isAvailable: true,
      run: async (call: (redis: unknown) => Promise<unknown>) =>
        call({
          async publish(...args: unknown[]) {
            published.push(args);
            if (args[0] === 'to:broken') throw new Error('no reply');
          },
        }),
    };
    const mailbox = createMailbox({
      subscriber: subscriber as unknown as Redis,
      connection: connection as never,
      clock,
      replica: 'me',
      channelOf: (id) => `to:${id}`,
    });
    let subscribed = 0;
    mailbox.onSubscribed(() => {
      subscribed += 1;
    });
    const open = async () => {
      subscriber.open();
      await settle();
    };
    return { clock, subscriber, published, connection, mailbox, open, subscribed: () => subscribed };
  };

  t.test('delivers messages to the handler of their kind', async (t) => {
    const { subscriber, mailbox } = setUpMailbox();
    const received: unknown[] = [];
    mailbox.on('a', (from, body) => received.push(['a', from, body]));
    mailbox.on('b', (from, body) => received.push(['b', from, body]));
    for (const message of [
      '["a","r1",[1]]',
      'not JSON',
      '["b","r2","x"]',
      '["unknown","r2",1]',
      '{}',
      '0',
      'null',
      '[]',
    ]) {
      subscriber.emit('message', 'to:me', message);
    }
    t.same(received, [
      ['a', 'r1', [1]],
      ['b', 'r2', 'x'],
    ]);
  });

  t.test('sends while Redis is available, and drops messages without an error otherwise', async (t) => {
    const { mailbox, published, connection } = setUpMailbox();
    mailbox.send('you', 'a', [1]);
    t.same(published, [['to:you', '["a","me",[1]]']]);
    mailbox.send('broken', 'a', 1);
    await settle();
    connection.isAvailable = false;
    mailbox.send('you', 'a', 2);
    t.equal(published.length, 2);
  });

  t.test('subscribes at each new connection, and then calls its listeners', async (t) => {
    const { subscriber, open, subscribed } = setUpMailbox();
    t.equal(subscriber.connects, 1);
    await open();
    t.equal(subscribed(), 1);
    subscriber.emit('error', new Error('ECONNRESET'));
    await open();
    t.equal(subscribed(), 2);
    subscriber.answers = false;
    await open();
    t.equal(subscribed(), 2, 'not before the subscription is confirmed');
    subscriber.subscribe = () => Promise.reject(new Error('closed'));
    await open();
    t.equal(subscribed(), 2, 'not if it fails');
  });

  t.test('checks the subscription every two seconds, and reconnects when a check has had no answer', async (t) => {
    const { clock, subscriber, open, subscribed } = setUpMailbox();
    await open();
    for (let i = 2; i < 5; i++) {
      clock.advance(CHECK_MS);
      await settle();
      t.equal(subscriber.subscribes, i, 'one check');
    }
    t.equal(subscribed(), 1, 'a check is not a new subscription');
    t.same(subscriber.disconnects, []);
    subscriber.answers = false;
    clock.advance(CHECK_MS);
    await settle();
    t.same(subscriber.disconnects, [], 'it waits for the answer');
    clock.advance(CHECK_MS - 1);
    await settle();
    t.same(subscriber.disconnects, []);
    clock.advance(1);
    await settle();
    t.same(subscriber.disconnects, [true], 'it reconnects');
    subscriber.answers = true;
    await open();
    t.equal(subscribed(), 2);
    for (let i = 0; i < 5; i++) {
      clock.advance(CHECK_MS);
      await settle();
    }
    t.same(subscriber.disconnects, [true], 'the new connection works');
  });

  t.test('subscribedForMs: 0 unless messages arrive, as far as is known', async (t) => {
    const { clock, subscriber, mailbox, open } = setUpMailbox();
    t.equal(mailbox.subscribedForMs, 0, 'before the first subscription');
    clock.advance(500);
    await open();
    t.equal(mailbox.subscribedForMs, 0);
    for (let i = 0; i < 3; i++) {
      clock.advance(CHECK_MS);
      await settle();
    }
    t.equal(mailbox.subscribedForMs, 3 * CHECK_MS);
    subscriber.answers = false;
    clock.advance(CHECK_MS);
    await settle();
    t.equal(mailbox.subscribedForMs, 0, 'while a check has no answer');
    clock.advance(CHECK_MS);
    await settle();
    t.equal(mailbox.subscribedForMs, 0, 'without a connection');
    subscriber.answers = true;
    await open();
    clock.advance(100);
    t.equal(mailbox.subscribedForMs, 100, 'since the new subscription');
  });

  t.test('a connection that is not open is not checked', async (t) => {
    const { clock, subscriber } = setUpMailbox();
    clock.advance(5 * CHECK_MS);
    await settle();
    t.same([subscriber.subscribes, subscriber.disconnects], [0, []]);
  });

  t.test('a new connection whose subscription is never confirmed is given up too', async (t) => {
    const { clock, subscriber, open } = setUpMailbox();
    subscriber.answers = false;
    await open();
    clock.advance(2 * CHECK_MS);
    await settle();
    t.same(subscriber.disconnects, [true]);
  });

  t.test('close', async (t) => {
    const { clock, subscriber, mailbox, open } = setUpMailbox();
    await open();
    mailbox.close();
    t.same(subscriber.disconnects, [undefined], 'it does not reconnect');
    t.equal(clock.pending, 0, 'no timer is pending');
  });
});

t.test('lease', async (t) => {
  const setUpLease = () => {
    const clock = manualClock();
    const commands: unknown[][] = [];
    let before: string | null = null;
    let isFailing = false;
    let onAvailable = () => {};
    const connection = {
      onAvailable: (listener: () => void) => {
        onAvailable = listener;
      },
      run: async (call: (redis: unknown) => Promise<unknown>) => {
        if (isFailing) throw new RedisUnavailable('no reply');
        return call({
          set: async (...args: unknown[]) => {
            commands.push(['set', ...args]);
            return before;
          },
          del: async (...args: unknown[]) => {
            commands.push(['del', ...args]);
          },
        });
      },
    };
    let pausedMs = 0;
    const pausableClock: Clock = { now: () => clock.now() + pausedMs, after: clock.after };
    const lease = createLease(connection as never, pausableClock, 'the lease');
    const events: string[] = [];
    lease.onMissing(() => events.push('missing'));
    lease.onRenewed(() => events.push('renewed'));
    const advance = async (ms: number) => {
      for (let i = 0; i < ms; i += 500) {
        clock.advance(Math.min(500, ms - i));
        await settle();
      }
    };
    return {
      clock,
      lease,
      commands,
      events,
      advance,
      /** Lets time pass without calling a timer, as a process that is paused. */
      pause: (ms: number) => {
        pausedMs += ms;
      },
      start: async () => {
        onAvailable();
        await settle();
        before = '1';
      },
      fail: (value: boolean) => {
        isFailing = value;
      },
      setBefore: (value: string | null) => {
        before = value;
      },
    };
  };

  t.test('is not held before the first renewal', async (t) => {
    const { lease, clock, commands } = setUpLease();
    t.equal(lease.isHeld, false);
    t.equal(lease.renewedForMs, 0);
    t.equal(clock.pending, 0);
    t.same(commands, []);
  });

  t.test('is renewed every second for five seconds', async (t) => {
    const { lease, commands, events, advance, start } = setUpLease();
    await start();
    t.same(commands, [['set', 'the lease', '1', 'PX', LEASE_MS, 'GET']]);
    t.same(events, ['renewed'], 'the first lease was not missing');
    t.equal(lease.isHeld, true);
    await advance(10 * RENEW_MS);
    t.equal(commands.length, 11);
    t.equal(lease.renewedForMs, 10 * RENEW_MS);
    t.same(new Set(events), new Set(['renewed']));
  });

  t.test('a renewal that finds no lease reports that it was missing', async (t) => {
    const { events, advance, start, setBefore } = setUpLease();
    await start();
    setBefore(null);
    await advance(RENEW_MS);
    t.same(events, ['renewed', 'missing', 'renewed']);
    setBefore('1');
    await advance(RENEW_MS);
    t.same(events.slice(3), ['renewed']);
  });

  t.test('is held until it may have expired; each failure starts a new series of renewals', async (t) => {
    const { lease, advance, start, fail } = setUpLease();
    await start();
    await advance(3 * RENEW_MS);
    fail(true);
    await advance(RENEW_MS);
    t.equal(lease.renewedForMs, 0, 'after a failure');
    t.equal(lease.isHeld, true);
    await advance(LEASE_MS - RENEW_MS - 500);
    t.equal(lease.isHeld, true);
    await advance(500);
    t.equal(lease.isHeld, false, 'five seconds after the last renewal');
    fail(false);
    await advance(RENEW_MS);
    t.equal(lease.isHeld, true);
    await advance(2 * RENEW_MS);
    t.equal(lease.renewedForMs, 2 * RENEW_MS, 'since the first renewal after the failure');
  });

  t.test('after a pause of the process longer than the lease, the series of renewals is new', async (t) => {
    const { lease, pause, events, advance, start, setBefore } = setUpLease();
    await start();
    await advance(3 * RENEW_MS);
    pause(LEASE_MS - 1);
    t.equal(lease.isHeld, true);
    t.equal(lease.renewedForMs, 3 * RENEW_MS + LEASE_MS - 1);
    pause(1);
    t.equal(lease.isHeld, false, 'another replica may have taken over by now');
    t.equal(lease.renewedForMs, 0);
    pause(1);
    setBefore(null);
    await advance(RENEW_MS);
    t.same(events.slice(-2), ['missing', 'renewed']);
    t.equal(lease.isHeld, true);
    t.ok(lease.renewedForMs <= RENEW_MS, 'the time before the pause does not count');
  });

  t.test('close: the lease is deleted and not renewed any more', async (t) => {
    const { lease, clock, commands, advance, start, fail } = setUpLease();
    await start();
    await lease.close();
    t.same(commands.at(-1), ['del', 'the lease']);
    t.equal(clock.pending, 0);
    await advance(5 * RENEW_MS);
    t.equal(commands.length, 2);
    fail(true);
    await lease.close();
    t.pass('also while Redis is unavailable');
  });
});
