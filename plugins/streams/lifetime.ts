import type { Clock } from '../clock.ts';

/** Grace time of a stream that was never read, if its own grace time is 0. */
const UNREAD_GRACE_MS = 10_000;

export interface Lifetime {
  onReaders(count: number): void;
  /** Call when the generation has ended: cancels the timer, and sets no other. */
  cancel(): void;
}

/**
 * Calls `abandon` when a generation has had no reader for `graceMs`. A stream without a reader yet counts as
 * left at its creation.
 */
export function createLifetime(graceMs: number, clock: Clock, abandon: () => void): Lifetime {
  let cancelTimer = clock.after(graceMs || UNREAD_GRACE_MS, abandon);
  let hasEnded = false;
  return {
    onReaders(count) {
      cancelTimer();
      // A store that ends its log later still reports readers that leave until then.
      if (count === 0 && !hasEnded) cancelTimer = clock.after(graceMs, abandon);
    },
    cancel() {
      hasEnded = true;
      cancelTimer();
    },
  };
}
