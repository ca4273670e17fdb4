import type { Clock } from '../clock.ts';

/** How long a stream that nobody has read yet waits where no grace is given. */
const UNREAD_MS = 10_000;

export interface Lifetime {
  onReaders(count: number): void;
  /** Call when the generation has ended: no timer is left behind. */
  over(): void;
}

/**
 * The rule that ties a generation to its readers: it goes on while there is one, and for `graceMs`
 * after the last has left. A stream counts as left from its creation.
 */
export function createLifetime(graceMs: number, clock: Clock, abandon: () => void): Lifetime {
  let cancel: (() => void) | undefined = clock.after(graceMs || UNREAD_MS, abandon);

  const over = () => {
    cancel?.();
    cancel = undefined;
  };
  return {
    onReaders(count) {
      over();
      if (count === 0) cancel = clock.after(graceMs, abandon);
    },
    over,
  };
}
