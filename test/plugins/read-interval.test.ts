import t from 'tap';
import { createReadInterval } from '../../plugins/load/read-interval.ts';
import { manualClock } from '../manual-clock.ts';

/**
 * Creates a read interval on a simulated core. `load.work` is the utilization of the core at an interval of one
 * millisecond; longer intervals reduce it proportionally. `load.cpu` is the same for the CPU time, by default `work`.
 */
function simulate(load: { work: number; cpu?: number }, minMs = 10, maxMs = 80, random = () => 0.5) {
  const clock = manualClock();
  const changes: number[] = [];
  let ms = minMs;
  const interval = createReadInterval({
    minMs,
    maxMs,
    clock,
    utilization: () => Math.min(1, load.work / Math.max(ms, 1)),
    cpuShare: () => Math.min(1, (load.cpu ?? load.work) / Math.max(ms, 1)),
    random,
    onChange(now) {
      ms = now;
      changes.push(now);
    },
  });
  /** Advances the clock, with ten new questions each second, and reads for each. A share of the connections waits. */
  const advance = (seconds: number, { reads = 10, waitingShare = 1 } = {}) => {
    for (let i = 0; i < seconds * 10; i++) {
      clock.advance(100);
      interval.isSaturated();
      for (let read = 0; read < reads; read++) interval.currentMs();
      for (let wait = 0; wait < reads * waitingShare; wait++) interval.nextMs();
    }
  };
  return { interval, advance, changes, clock };
}

t.test('the interval of an idle core is the minimum', async (t) => {
  const { interval, advance, changes } = simulate({ work: 1.9 });
  advance(5);
  t.equal(interval.currentMs(), 10);
  t.same(changes, [10], 'the interval does not change');
  t.notOk(interval.isSaturated());
});

t.test('a short interval grows until the core takes 25 % of the CPU, up to 50 ms', async (t) => {
  const load = { work: 7.5 };
  const { interval, advance } = simulate(load);
  advance(3);
  t.ok(Math.abs(interval.currentMs() - 30) < 1, `${interval.currentMs()} ms; 30 ms are 25 % utilization`);
  for (const work of [13, 38]) {
    load.work = work;
    advance(3);
    t.equal(interval.currentMs(), 50, `${2 * work} % utilization`);
  }
  load.work = 1;
  advance(3);
  t.equal(interval.currentMs(), 10);
});

t.test('a short interval does not grow for an event loop that is busy without CPU time', async (t) => {
  const { interval, advance } = simulate({ work: 7, cpu: 2 });
  advance(3);
  t.equal(interval.currentMs(), 10, '70 % busy, 20 % CPU');
});

t.test('a short interval grows to maxMs only', async (t) => {
  const { interval, advance } = simulate({ work: 13 }, 10, 40);
  advance(3);
  t.equal(interval.currentMs(), 40);
});

t.test('a minimum above 50 ms is kept', async (t) => {
  const { interval, advance } = simulate({ work: 12 }, 60);
  advance(3);
  t.equal(interval.currentMs(), 60);
});

t.test('the interval grows until the core is 80 % busy, and shrinks when the load ends', async (t) => {
  const load = { work: 56 };
  const { interval, advance } = simulate(load);
  advance(3);
  t.ok(Math.abs(interval.currentMs() - 70) < 2, `${interval.currentMs()} ms; 70 ms are 80 % utilization`);
  t.notOk(interval.isSaturated(), 'a busy core is not saturated');
  const settled = interval.currentMs();
  advance(1);
  t.ok(Math.abs(interval.currentMs() - settled) < 1, 'the interval does not oscillate');
  load.work = 1;
  advance(2);
  t.equal(interval.currentMs(), 10);
});

t.test('a core that stays overloaded is saturated, a short burst does not saturate it', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance } = simulate(load);
  advance(3);
  t.equal(interval.currentMs(), 128, 'the interval is at most 1.6 times maxMs');
  t.notOk(interval.isSaturated(), 'not saturated before the interval was too long for three seconds');
  advance(2);
  t.ok(interval.isSaturated());
  load.work = 0;
  advance(2);
  t.notOk(interval.isSaturated(), 'not saturated two seconds after the load has ended');
});

t.test('a pause of an overload admits questions, and does not delay the next refusal', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance } = simulate(load);
  advance(6);
  load.work = 32;
  advance(2.5);
  t.notOk(interval.isSaturated(), 'the core has time to spare');
  load.work = 1_000;
  advance(2);
  t.ok(interval.isSaturated(), 'full again, without another three seconds');
  load.work = 32;
  advance(6);
  load.work = 1_000;
  advance(3);
  t.notOk(interval.isSaturated(), 'after a longer pause a burst is a burst again');
  advance(3);
  t.ok(interval.isSaturated());
});

t.test('load that is not caused by reads does not saturate', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance } = simulate(load);
  advance(6);
  t.ok(interval.isSaturated());
  advance(3, { reads: 0 }); // The core is as busy as before, but nothing is read.
  t.equal(interval.currentMs(), 10);
  t.notOk(interval.isSaturated());
});

t.test(
  'a core that is busy with streams slower than the interval is not saturated: it delays none of them',
  async (t) => {
    const { interval, advance } = simulate({ work: 1_000 });
    advance(10, { waitingShare: 0.2 });
    t.equal(interval.currentMs(), 128);
    t.notOk(interval.isSaturated());
    advance(6, { waitingShare: 0.3 });
    t.ok(interval.isSaturated(), 'others are delayed');
  },
);

t.test('nextMs adds up to a quarter of the growth as jitter', async (t) => {
  const { interval, advance } = simulate({ work: 56 });
  t.equal(interval.nextMs(), 10, 'the minimum has no jitter');
  advance(3);
  const ms = interval.currentMs();
  t.equal(interval.nextMs(), ms + (ms - 10) / 8, 'half of the jitter for a random number of 0.5');
});

t.test('the first sample after an idle minute ends the saturation', async (t) => {
  const load = { work: 1_000 };
  const { interval, advance, clock } = simulate(load);
  advance(6);
  t.ok(interval.isSaturated());
  load.work = 0;
  clock.advance(60_000);
  t.notOk(interval.isSaturated());
  load.work = 1_000;
  advance(3);
  t.notOk(interval.isSaturated(), 'a burst after a pause is a burst');
  advance(2);
  t.ok(interval.isSaturated());
});

t.test('an interval of 0 grows under load and shrinks to 0', async (t) => {
  const load = { work: 1 };
  const { interval, advance } = simulate(load, 0);
  t.equal(interval.currentMs(), 0);
  load.work = 4;
  advance(3);
  t.ok(Math.abs(interval.currentMs() - 16) < 1, `${interval.currentMs()} ms`);
  load.work = 0.1;
  advance(3);
  t.equal(interval.currentMs(), 0);
});

t.test('frequent calls do not make the interval grow faster', async (t) => {
  const { interval, clock } = simulate({ work: 3 });
  for (let i = 0; i < 50; i++) {
    clock.advance(2);
    interval.currentMs();
  }
  t.equal(Math.round(interval.currentMs()), 12, 'one step for each 100 ms');
});

t.test('a short pause shortens the interval by the root of the utilization only', async (t) => {
  const load = { work: 160 };
  const { interval, advance, clock } = simulate(load, 10, 250);
  advance(5);
  const ms = interval.currentMs();
  load.work = 40;
  clock.advance(100);
  t.equal(interval.currentMs(), ms / 2, 'half for a quarter of the work');
});

t.test('the further the interval is above its limit, the more questions are refused', async (t) => {
  const load = { work: 0.8 * 88 }; // The core is full at 1.1 times the limit.
  const lot = { number: 0 };
  const { interval, advance } = simulate(load, 10, 80, () => lot.number);
  advance(8);
  t.ok(Math.abs(interval.currentMs() - 88) < 1, `${interval.currentMs()} ms`);
  const refused = () => [0, 0.3, 0.5, 1].filter((number) => Object.assign(lot, { number }) && interval.isSaturated());
  t.same(refused(), [0, 0.3]);
  load.work = 0.8 * 104;
  advance(3);
  t.same(refused(), [0, 0.3, 0.5, 1], 'all, at 1.3 times the limit');
});
