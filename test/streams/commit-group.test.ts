import t from 'tap';
import { type Commit, CommitGroup } from '../../plugins/streams/redis/producer/commit-group.ts';
import { Throttle } from '../../plugins/streams/redis/producer/throttle.ts';
import { manualClock } from '../manual-clock.ts';

/** When the logs of a process write to Redis, on a clock that the test turns. */

const FLUSH_MS = 10;
const GAP_MS = 20;

function setUp() {
  const clock = manualClock();
  /** Writes, by the turn in which they were sent. */
  const turns: number[] = [];
  let isTogether = false;
  const together = (send: () => void) => {
    turns.push(0);
    isTogether = true;
    send();
    isTogether = false;
  };
  const group = new CommitGroup({ clock, flushMs: FLUSH_MS, together });
  const addLog = () => {
    const log = {
      /** Times of the writes of this log. */
      writes: [] as number[],
      waiting: 0,
      /** Longest time that a part has waited. */
      maxDelayMs: 0,
      since: 0,
      push(isUrgent = false) {
        if (log.waiting === 0) log.since = clock.now();
        log.waiting += 1;
        throttle.countPart();
        throttle.schedule(isUrgent);
      },
    };
    const throttle: Throttle = new Throttle(clock, group, () => {
      if (isTogether) turns[turns.length - 1] = (turns.at(-1) as number) + 1;
      if (log.waiting > 0) log.maxDelayMs = Math.max(log.maxDelayMs, clock.now() - log.since);
      log.waiting = 0;
      log.writes.push(clock.now());
    });
    return { ...log, log, throttle };
  };
  /** Lets each log have a part every 20 ms, at times of its own, and returns the writes per part in the last second. */
  const play = (logs: ReturnType<typeof addLog>[], ms: number) => {
    const end = clock.now() + ms;
    let parts = 0;
    while (clock.now() < end) {
      for (const [i, { log }] of logs.entries()) {
        if (Math.floor(clock.now()) % GAP_MS !== i % GAP_MS) continue;
        log.push();
        if (clock.now() >= end - 1_000) parts += 1;
      }
      clock.advance(1);
    }
    const writes = logs.flatMap(({ log }) => log.writes).filter((at) => at >= end - 1_000);
    return writes.length / parts;
  };
  return { clock, group, turns, addLog, play };
}

t.test('with few parts, each part after a pause is written at once, and a later one after `flushMs`', async (t) => {
  const { clock, addLog, play, turns } = setUp();
  const [a, b] = [addLog(), addLog()];
  a.log.push();
  t.same(a.log.writes, [0]);
  clock.advance(3);
  a.log.push();
  b.log.push();
  a.log.push();
  t.same([a.log.writes, b.log.writes], [[0], [3]], 'another log does not wait');
  clock.advance(6.9);
  t.same(a.log.writes, [0]);
  clock.advance(0.1);
  t.same(a.log.writes, [0, FLUSH_MS], 'both parts in one write');
  clock.advance(100);
  t.same([a.log.writes, turns, clock.pending], [[0, FLUSH_MS], [1], 0], 'nothing is written twice, no timer is left');
  const logs = Array.from({ length: 30 }, addLog);
  t.equal(play(logs, 4_000), 1, '1,500 parts a second: a write for each');
  t.equal(Math.max(...logs.map(({ log }) => log.maxDelayMs)), 0, 'without a delay');
});

t.test('with many parts, writes carry several of them, and logs write together', async (t) => {
  const { clock, addLog, play, turns, group } = setUp();
  const logs = Array.from({ length: 200 }, addLog);
  const perPart = play(logs, 4_000);
  t.equal(group.intervalMs, 50);
  t.ok(perPart <= 0.5, `10,000 parts a second: ${perPart} writes for each`);
  t.ok(Math.max(...logs.map(({ log }) => log.maxDelayMs)) <= 50, 'no part waits for longer than 50 ms');
  const late = turns.slice(-50);
  t.ok(late.reduce((sum, count) => sum + count, 0) / late.length > 20, `logs in one turn: ${late}`);
  clock.advance(100);
  const first = addLog();
  first.log.push();
  t.same(first.log.writes, [clock.now()], 'the first part of an answer is written at once');
  first.log.push(true);
  t.same(first.log.writes, [clock.now(), clock.now()], 'and so is its end');
  first.log.push();
  first.throttle.cancel();
  clock.advance(100);
  t.equal(first.log.writes.length, 2, 'what is cancelled is not written');
  play([logs[0] as (typeof logs)[number]], 3_000);
  t.equal(group.intervalMs, FLUSH_MS, 'with few parts again, the interval is short again');
  clock.advance(100);
  t.equal(clock.pending, 0, 'no timer is left');
});

t.test('an interval that is configured longer stays', async (t) => {
  const clock = manualClock();
  const group = new CommitGroup({ clock, flushMs: 200, together: (send) => send() });
  for (let i = 0; i < 100_000; i++) {
    if (i % 10 === 0) clock.advance(1);
    group.countPart(clock.now());
  }
  t.equal(group.intervalMs, 200);
});

t.test('a busy process writes early with others, by a quarter of the interval; another one does not', async (t) => {
  for (const isBusy of [true, false]) {
    const clock = manualClock();
    const group = new CommitGroup({ clock, flushMs: FLUSH_MS, together: (send) => send() });
    // 12,000 parts a second, or none.
    for (let i = 0; isBusy && i < 24_000; i++) {
      if (i % 12 === 0) clock.advance(1);
      group.countPart(clock.now());
    }
    const runs: number[] = [];
    const start = clock.now();
    for (const ms of [10, 22, 23, 40]) group.add({ dueAt: start + ms, run: () => runs.push(ms) });
    clock.advance(10);
    t.same(runs, isBusy ? [10, 22] : [10]);
    clock.advance(30);
    t.same(runs, [10, 22, 23, 40]);
    t.equal(clock.pending, 0);
  }
});

t.test('a commit that is taken back leaves the others at their time, and no timer', async (t) => {
  const clock = manualClock();
  const group = new CommitGroup({ clock, flushMs: FLUSH_MS, together: (send) => send() });
  const runs: string[] = [];
  const [first, second] = ['first', 'second'].map((name, i) => ({ dueAt: 10 + i, run: () => runs.push(name) }));
  for (const commit of [first, second]) group.add(commit as Commit);
  group.delete(first as Commit);
  clock.advance(11);
  t.same(runs, ['second']);
  group.add({ ...(first as Commit), dueAt: 20 });
  group.add({ ...(second as Commit), dueAt: 30 });
  clock.advance(9);
  t.same(runs, ['second', 'first'], 'one that is added later does not delay it');
  clock.advance(10);
  const last = { dueAt: 100, run: t.fail };
  group.add(last);
  group.delete(last);
  t.equal(clock.pending, 0);
  group.add({ dueAt: 110, run: () => runs.push('third') });
  clock.advance(100);
  t.same(runs, ['second', 'first', 'second', 'third'], 'the next one is written');
});

t.test('a commit that is due before those that wait already is not late', async (t) => {
  const clock = manualClock();
  const group = new CommitGroup({ clock, flushMs: FLUSH_MS, together: (send) => send() });
  const runs: string[] = [];
  group.add({ dueAt: 50, run: () => runs.push('late') });
  group.add({ dueAt: 10, run: () => runs.push('early') });
  clock.advance(10);
  t.same(runs, ['early']);
  clock.advance(39);
  t.same(runs, ['early']);
  clock.advance(1);
  t.same(runs, ['early', 'late']);
});
