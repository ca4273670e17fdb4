import t from 'tap';
import type { Clock } from '../../plugins/clock.ts';
import { RedisUnavailable } from '../../plugins/redis/connection.ts';
import { createLease } from '../../plugins/redis/lease.ts';
import { manualClock } from '../manual-clock.ts';
import { settle } from './fake-redis.ts';

/** The lease of a replica, on a clock turned by hand. */

const [LEASE_MS, RENEW_MS] = [5_000, 1_000];

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

t.test('close during a renewal: nobody is told of it', async (t) => {
  const { lease, clock, events, start, setBefore } = setUpLease();
  await start();
  setBefore(null);
  clock.advance(RENEW_MS);
  await lease.close();
  await settle();
  t.same(events, ['renewed']);
  t.equal(clock.pending, 0);
});
