import type { Clock } from '../clock.ts';

/** How long a stream that nobody has read yet waits where no grace is given. */
const UNREAD_GRACE_MS = 10_000;

export interface Lifetime {
  onReaders(count: number): void;
  /** Call when the generation has ended: no timer is left behind. */
  cancel(): void;
}

/**
 * The rule that ties a generation to its readers: it goes on while there is one, and for `graceMs`
 * after the last has left. A stream counts as left from its creation.
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
