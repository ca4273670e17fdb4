import t from 'tap';
import { createRotation } from '../../plugins/sse/rotation.ts';
import { manualClock } from '../manual-clock.ts';
import { randomNumbers } from './random-numbers.ts';

const MAX_MS = 20_000;
const LOOK_MS = MAX_MS / 500;

t.test('every response ends in the last fifth of its time, and few of them at once', (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = randomNumbers(seed);
    const clock = manualClock();
    let rotated = 0;
    let atOnce = 0;
    let mostAtOnce = 0;
    const wrong: string[] = [];
    const open = new Map<number, { rotateAt: number; writer: { rotate(): boolean } }>();
    const rotation = createRotation({ clock, maxConnectionMs: MAX_MS, open, onRotated: () => (rotated += 1) });
    const count = 400;
    for (let id = 0; id < count; id++) {
      // Half of them begin at the same time.
      if (id > count / 2) clock.advance(random(50));
      const startedAt = clock.now();
      const canReconnectAt = random(4) === 0 ? startedAt + random(3 * MAX_MS) : 0;
      const rotate = () => {
        if (clock.now() < canReconnectAt) return false;
        const latest = Math.max(startedAt + MAX_MS, canReconnectAt + 2 * LOOK_MS);
        if (clock.now() > latest || clock.now() < startedAt + 0.8 * MAX_MS - 3 * LOOK_MS)
          wrong.push(`seed ${seed}: ended after ${clock.now() - startedAt} ms`);
        atOnce += 1;
        open.delete(id);
        return true;
      };
      open.set(id, { rotateAt: rotation.nextDeadline(), writer: { rotate } });
    }
    while (open.size > 0 && clock.now() < 10 * MAX_MS) {
      clock.advance(LOOK_MS);
      mostAtOnce = Math.max(mostAtOnce, atOnce);
      atOnce = 0;
    }
    t.same(wrong.slice(0, 3), [], 'each at its time');
    t.equal(rotated, count, 'all have ended, each once');
    t.ok(mostAtOnce < count / 10, `${mostAtOnce} of ${count} at once`);
    rotation.close();
    t.equal(clock.pending, 0, 'no timer is left');
  }
  const clock = manualClock();
  const never = createRotation({ clock, maxConnectionMs: 0, open: new Map(), onRotated: t.fail });
  t.equal(never.nextDeadline(), Number.POSITIVE_INFINITY);
  t.equal(clock.pending, 0, '0 needs no timer');
  never.close();
  t.end();
});
