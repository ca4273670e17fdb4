import t from 'tap';
import type { ProbedConnection } from '../../plugins/redis/connection.ts';
import type { RedisHealth } from '../../plugins/redis/health.ts';
import { createSelfTest } from '../../plugins/redis/self-test.ts';
import { manualClock } from '../manual-clock.ts';
import { settle } from './fake-redis.ts';

/** The commands of a self-test, with a Redis that the test plays. */

t.test('the key is deleted once all commands were answered, in whatever order a cluster ran them', async (t) => {
  const sent: string[] = [];
  const replies: (() => void)[] = [];
  const redis = {
    call: (...command: string[]) => {
      sent.push(command.slice(0, 2).join(' '));
      return new Promise<void>((resolve) => replies.push(resolve));
    },
  };
  const probe = (call: (client: typeof redis) => Promise<unknown>) => call(redis);
  const selfTest = createSelfTest({
    connection: { probe, query: probe, run: probe } as unknown as ProbedConnection,
    health: { report() {}, works: () => true } as unknown as RedisHealth,
    clock: manualClock(),
    key: 'k',
    channel: 'c',
    prefix: 'p',
    database: 0,
  });
  const running = selfTest.runIfDue();
  await settle();
  const count = sent.length;
  t.ok(count > 20);
  for (const reply of replies.slice(1)) reply();
  await settle();
  t.equal(sent.length, count, 'not before the last reply');
  replies[0]?.();
  await settle();
  t.same(sent.slice(count), ['del k']);
  await running;
});
