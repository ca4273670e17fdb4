import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { type BodySteps, createBodyTurns } from '../../plugins/http/body-turns.ts';
import { manualClock } from '../manual-clock.ts';

/** Starts turns whose bodies write down their steps. Each step takes some time. */
function start(ms = 10) {
  const clock = manualClock();
  const faults: unknown[] = [];
  const turns = createBodyTurns({ clock, onFault: (error) => faults.push(error) });
  const done: string[] = [];
  function* steps(name: string, count: number): BodySteps {
    for (let i = 1; i <= count; i++) {
      clock.advance(ms);
      done.push(`${name}${i}`);
      if (i < count) yield;
    }
  }
  const add = (owner: string, name: string, count = 2) => turns.add(owner, steps(name, count));
  /** Lets everything run that needs no time. */
  const settle = async () => {
    for (let i = 0; i < 20; i++) await turn();
  };
  return { clock, turns, faults, done, add, settle };
}

t.test('one body is worked on at a time, and owners take turns', async (t) => {
  const { clock, done, add, settle } = start();
  for (const name of ['a', 'b', 'c']) add('noisy', name);
  add('quiet', 'q');
  for (const last of ['a2', 'q2', 'b2', 'c2']) {
    await settle();
    t.equal(done.at(-1), last);
    clock.advance(40);
  }
  t.same(done, ['a1', 'a2', 'q1', 'q2', 'b1', 'b2', 'c1', 'c2']);
});

t.test('other work runs between two steps, and for twice the time of a body after it', async (t) => {
  const { clock, done, add, settle } = start();
  add('noisy', 'a');
  await turn();
  t.same(done, ['a1'], 'one step in one turn');
  add('noisy', 'b');
  await settle();
  t.same(done, ['a1', 'a2']);
  clock.advance(39);
  await settle();
  t.same(done, ['a1', 'a2'], 'the pause of 40 ms is not over');
  clock.advance(1);
  await settle();
  t.same(done, ['a1', 'a2', 'b1', 'b2']);
});

t.test('what a step resolves belongs to its time', async (t) => {
  const { clock, turns, done, add, settle } = start();
  function* resolving(): BodySteps {
    void Promise.resolve().then(() => clock.advance(100));
  }
  turns.add('noisy', resolving());
  add('noisy', 'b', 1);
  await settle();
  clock.advance(199);
  await settle();
  t.same(done, []);
  clock.advance(1);
  await settle();
  t.same(done, ['b1']);
});

t.test('a body without cost is followed by the next one at once', async (t) => {
  const { done, add, settle } = start(0);
  add('noisy', 'a');
  add('noisy', 'b');
  await settle();
  t.same(done, ['a1', 'a2', 'b1', 'b2']);
});

t.test('a fault of one body is reported and does not keep the others from their turn', async (t) => {
  const { turns, faults, done, add, settle } = start(0);
  // biome-ignore lint/correctness/useYield: it fails at its first step
  function* failing(): BodySteps {
    throw new Error('broken');
  }
  turns.add('noisy', failing());
  add('noisy', 'b');
  await settle();
  t.match(faults, [{ message: 'broken' }]);
  t.same(done, ['b1', 'b2']);
});

t.test('nothing runs after the end', async (t) => {
  const { clock, turns, done, add, settle } = start();
  add('noisy', 'a');
  add('noisy', 'b');
  await turn();
  turns.close();
  await settle();
  clock.advance(1_000);
  await settle();
  t.same(done, ['a1'], 'neither the rest of a body nor the next one');
  add('noisy', 'c');
  await settle();
  t.same(done, ['a1']);
  const waiting = start();
  waiting.add('noisy', 'a');
  waiting.add('noisy', 'b');
  await waiting.settle();
  waiting.turns.close();
  waiting.clock.advance(1_000);
  await waiting.settle();
  t.same(waiting.done, ['a1', 'a2'], 'nor after the pause');
});
