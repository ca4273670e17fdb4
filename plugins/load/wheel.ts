import type { Clock } from '../clock.ts';

/** Slots of a wheel: it can wait for this many ticks. */
const SLOTS = 64;
const TICK_MS = 4;

/** The longest that a wheel can wait, in milliseconds. */
export const LONGEST_MS = (SLOTS - 2) * TICK_MS;

/**
 * Many short waits on one timer, which runs only while something waits. Never early, and late by up
 * to two ticks; a wait costs an array's place, and cannot be called off.
 */
export function createWheel(clock: Clock): (ms: number, then: () => void) => void {
  const slots: (() => void)[][] = Array.from({ length: SLOTS }, () => []);
  let waiting = 0;
  let turning = false;
  /** The last tick whose slot was emptied. */
  let turned = 0;
  const tickOf = (time: number) => Math.floor(time / TICK_MS);
  const slotOf = (tick: number) => tick % SLOTS;

  function turn(): void {
    const now = tickOf(clock.now());
    while (turned < now && waiting > 0) {
      turned += 1;
      const due = slots[slotOf(turned)] as (() => void)[];
      slots[slotOf(turned)] = [];
      waiting -= due.length;
      for (const then of due) then();
    }
    turning = waiting > 0;
    if (turning) clock.after(TICK_MS, turn);
  }

  return (ms, then) => {
    const now = clock.now();
    if (!turning) {
      turning = true;
      turned = tickOf(now);
      clock.after(TICK_MS, turn);
    }
    waiting += 1;
    slots[slotOf(tickOf(now + Math.min(ms, LONGEST_MS)) + 1)]?.push(then);
  };
}
