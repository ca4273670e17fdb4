import t from 'tap';
import { settle } from './fake-redis.ts';
import { createRedisParts } from './redis-parts.ts';

/** The lease of a replica, whose renewal is the probe of Redis, on a clock turned by hand. */

const [LEASE_MS, RENEW_MS] = [3_500, 1_000];

function setUp() {
  const parts = createRedisParts();
  const events: string[] = [];
  parts.lease.onMissing(() => events.push('missing'));
  parts.lease.onRenewed(() => events.push('renewed'));
  return { ...parts, events };
}

t.test('is not held before the first renewal', async (t) => {
  const { lease, redis, advance } = setUp();
  await advance(5_000, 500);
  t.equal(lease.isHeld, false);
  t.equal(lease.renewedForMs, 0);
  t.same(redis.sent, []);
});

t.test('is renewed every second', async (t) => {
  const { lease, redis, events, advance, open } = setUp();
  await open();
  t.same(redis.sent, [['set', 'the lease', '1', 'PX', LEASE_MS, 'GET']]);
  t.same(events, ['renewed'], 'the first lease was not missing');
  t.equal(lease.isHeld, true);
  await advance(10 * RENEW_MS);
  t.equal(redis.sent.length, 11);
  t.equal(lease.renewedForMs, 10 * RENEW_MS);
  t.same(new Set(events), new Set(['renewed']));
});

t.test('a renewal that finds no lease reports that it was missing', async (t) => {
  const { events, advance, open, redis } = setUp();
  await open();
  redis.before = null;
  await advance(RENEW_MS);
  t.same(events, ['renewed', 'missing', 'renewed']);
  await advance(RENEW_MS);
  t.same(events.slice(3), ['renewed']);
});

t.test('is held until it may have expired; each failure starts a new series of renewals', async (t) => {
  const { lease, advance, open, redis } = setUp();
  await open();
  await advance(3 * RENEW_MS);
  redis.refusal = 'MISCONF x';
  await advance(RENEW_MS);
  t.equal(lease.renewedForMs, 0, 'after a failure');
  t.equal(lease.isHeld, true);
  await advance(LEASE_MS - RENEW_MS - 50);
  t.equal(lease.isHeld, true);
  await advance(50);
  t.equal(lease.isHeld, false, 'after the last renewal');
  redis.refusal = undefined;
  await advance(RENEW_MS);
  t.equal(lease.isHeld, true);
  const { renewedForMs } = lease;
  await advance(2 * RENEW_MS);
  t.equal(lease.renewedForMs, renewedForMs + 2 * RENEW_MS, 'since the first renewal after the failure');
  t.ok(renewedForMs < RENEW_MS);
});

t.test('a connection whose peer does not answer is unavailable, and opened again, before the lease ends', async (t) => {
  const { lease, redis, connection, advance, open, warnings, failures } = setUp();
  await open();
  await advance(RENEW_MS - 50);
  redis.answers = false; // Just before a renewal: the lease is as old as it gets.
  let elapsedMs = RENEW_MS - 50;
  while (connection.isAvailable) {
    t.ok(lease.isHeld, `it notices while the lease is held, ${elapsedMs} ms after the renewal`);
    await advance(50);
    elapsedMs += 50;
  }
  t.ok(lease.isHeld, 'no other replica can have taken anything over');
  t.same(redis.disconnects, [true], 'the connection is opened again');
  t.match(warnings, [{ reason: 'timeout' }]);
  t.same(failures, ['timeout', 'timeout', 'timeout'], 'a single slow reply is not enough');
  redis.answers = true;
  await open();
  t.equal(connection.isAvailable, true);
  t.equal(redis.before, '1', 'and the lease was renewed in time');
});

t.test('an open socket on which Redis says nothing is opened again', async (t) => {
  const { redis, advance, warnings } = setUp();
  redis.status = 'connect';
  await advance(2_000, 500);
  t.match(warnings, [{ reason: 'timeout' }]);
  t.same(redis.disconnects, []);
  await advance(2_000, 500);
  t.same(redis.disconnects, [true]);
});

t.test('a server that became a replica, or wants a password: reconnects, with growing pauses', async (t) => {
  for (const refusal of ['READONLY x', 'NOAUTH x', 'ERR Error running script (x): @user_script:1: -READONLY x']) {
    const { redis, advance, open, warnings, connection } = setUp();
    await open();
    redis.refusal = refusal;
    const counts: number[] = [];
    for (let i = 0; i < 6; i++) {
      for (let second = 0; second < 10; second++) {
        await advance(RENEW_MS, 500);
        if (redis.status !== 'ready') await open();
      }
      counts.push(redis.disconnects.length);
    }
    t.ok((counts[0] as number) <= 4, `at most four times in ten seconds: ${counts}`);
    t.ok((counts[5] as number) - (counts[4] as number) <= 1, `later once in ten seconds: ${counts}`);
    t.equal(warnings.length, 1, 'one log line');
    redis.refusal = undefined;
    await advance(RENEW_MS);
    t.equal(connection.isAvailable, true);
    redis.refusal = refusal;
    const before = redis.disconnects.length;
    await advance(RENEW_MS);
    t.equal(redis.disconnects.length, before + 1, 'the next time at once');
  }
});

for (const reason of ['MISCONF', 'NOREPLICAS', 'OOM', 'LOADING', 'MOVED', 'CLUSTERDOWN', 'NOPERM']) {
  t.test(`${reason}: is told once, and the connection stays`, async (t) => {
    const { redis, advance, open, warnings, infos, connection, up } = setUp();
    await open();
    redis.refusal = `${reason} the text of the reply`;
    await advance(10 * RENEW_MS, 250);
    t.equal(connection.isAvailable, false);
    t.equal(up.at(-1), 0);
    t.equal(warnings.length, 1);
    t.match(warnings[0], { reason, hint: /./ });
    t.notMatch(JSON.stringify(warnings), 'the text of');
    t.same(redis.disconnects, []);
    redis.refusal = undefined;
    await advance(RENEW_MS);
    t.equal(connection.isAvailable, true);
    t.same(infos.at(-1), 'redis available');
  });
}

t.test('close: the lease is deleted and not renewed any more', async (t) => {
  const { lease, clock, redis, advance, open } = setUp();
  await open();
  await lease.close();
  t.same(redis.sent.at(-1), ['del', 'the lease']);
  t.equal(clock.pending, 0);
  await advance(5 * RENEW_MS, 500);
  t.equal(redis.sent.length, 2);
  redis.refusal = 'MISCONF x';
  await lease.close();
  t.pass('also while Redis refuses');
});

t.test('close during a renewal: nobody is told of it', async (t) => {
  const { lease, clock, events, open, redis } = setUp();
  await open();
  redis.before = null;
  clock.advance(RENEW_MS);
  await lease.close();
  await settle();
  t.same(events, ['renewed']);
  t.equal(clock.pending, 0);
});
