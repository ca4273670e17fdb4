import type { Test } from 'tap';

/** Runs timers a thousand times faster, and random numbers are 1. Returns the milliseconds of all timers until now. */
export function hurry(t: Test): number[] {
  const { setTimeout } = globalThis;
  const { random } = Math;
  const waits: number[] = [];
  globalThis.setTimeout = ((run: () => void, ms = 0) => {
    waits.push(ms);
    return setTimeout(run, ms / 1_000);
  }) as typeof setTimeout;
  Math.random = () => 1;
  t.teardown(() => {
    globalThis.setTimeout = setTimeout;
    Math.random = random;
  });
  return waits;
}
