import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { measureEventLoopDelay } from '../../plugins/load/event-loop-delay.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';

t.test('a blocked event loop counts as delay, also if no sample was taken, and an idle one does not', async (t) => {
  const clock = manualClock();
  const delay = measureEventLoopDelay(clock.now);
  t.teardown(() => delay.stop());
  t.equal(delay.meanMs(), 0, 'nothing is known before the first window has ended');
  for (let turns = 0; turns < 10; turns++) {
    const end = performance.now() + 20;
    while (performance.now() < end);
    await sleep(1);
  }
  clock.advance(1_000);
  const meanMs = delay.meanMs();
  t.ok(meanMs > 5 && meanMs < 1_000_000, `${meanMs} ms; turns of 20 ms delay the timers`);
  t.equal(delay.meanMs(), meanMs, 'the mean of a window stays until the next one has ended');
  clock.advance(999);
  t.equal(delay.meanMs(), meanMs);
  clock.advance(1);
  t.equal(delay.meanMs(), Number.POSITIVE_INFINITY, 'no sample in the whole window');
  // Another process may use the core for a while.
  const isIdle = async () => {
    await sleep(50);
    clock.advance(1_000);
    return delay.meanMs() < 5;
  };
  await until(isIdle, 'a window has only short turns', 10_000);
});
