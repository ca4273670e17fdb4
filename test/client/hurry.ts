import type { Test } from 'tap';

/** Runs timers a thousand times faster. */
export function hurry(t: Test): void {
  const { setTimeout } = globalThis;
  globalThis.setTimeout = ((run: () => void, ms = 0) => setTimeout(run, ms / 1_000)) as typeof setTimeout;
  t.teardown(() => {
    globalThis.setTimeout = setTimeout;
  });
}
