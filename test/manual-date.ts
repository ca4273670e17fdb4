import type { Test } from 'tap';

/** The wall clock of this process, which stands still until the test advances it. */
export interface ManualDate {
  advance(ms: number): void;
}

/** Replaces `Date.now` until the test ends. Timers are not affected. */
export function manualDate(t: Test): ManualDate {
  let now = Date.now();
  t.intercept(Date, 'now', { value: () => now, configurable: true, writable: true });
  return {
    advance(ms) {
      now += ms;
    },
  };
}
