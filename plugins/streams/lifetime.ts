import type { Clock } from '../clock.ts';

/** Grace time of a stream that was never read, if its own grace time is 0. */
const UNREAD_GRACE_MS = 10_000;

export interface Lifetime {
  onReaders(count: number): void;
  /** Call when the generation has ended: cancels the timer. */
  cancel(): void;
}

/**
 * Calls `abandon` when a generation has had no reader for `graceMs`. A stream without a reader yet counts as
 * left at its creation.
 */
export function createLifetime(graceMs: number, clock: Clock, abandon: () => void): Lifetime {
  let cancelTimer: (() => void) | undefined = clock.after(graceMs || UNREAD_GRACE_MS, abandon);

  const cancel = () => {
    cancelTimer?.();
    cancelTimer = undefined;
  };
  return {
    onReaders(count) {
      cancel();
      if (count === 0) cancelTimer = clock.after(graceMs, abandon);
    },
    cancel,
  };
}
