import type { Clock } from '../plugins/clock.ts';

export interface ManualClock extends Clock {
  /** Moves time on, and calls what falls due, in order. */
  advance(ms: number): void;
  /** Timers that wait. */
  readonly pending: number;
}

export function manualClock(): ManualClock {
  const timers = new Set<{ at: number; fn: () => void }>();
  let time = 0;
  return {
    now: () => time,
    after(ms, fn) {
      const timer = { at: time + ms, fn };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    advance(ms) {
      const goal = time + ms;
      for (;;) {
        const due = [...timers].filter(({ at }) => at <= goal).sort((a, b) => a.at - b.at)[0];
        if (due === undefined) break;
        timers.delete(due);
        time = Math.max(time, due.at);
        due.fn();
      }
      time = goal;
    },
    get pending() {
      return timers.size;
    },
  };
}
