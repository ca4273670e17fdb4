import type { Clock } from '../plugins/clock.ts';

/** A clock that stands still until the test advances it. */
export interface ManualClock extends Clock {
  /** Advances the time and calls the timers that fall due, in order. */
  advance(ms: number): void;
  /** Number of timers that have not fired. */
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
      const target = time + ms;
      for (;;) {
        const due = [...timers].filter(({ at }) => at <= target).sort((a, b) => a.at - b.at)[0];
        if (due === undefined) break;
        timers.delete(due);
        time = Math.max(time, due.at);
        due.fn();
      }
      time = target;
    },
    get pending() {
      return timers.size;
    },
  };
}
