import type { Clock } from '../clock.ts';

/** Ends responses before a gateway cuts them. Their clients reconnect and continue. */
export interface Rotation {
  /** Returns the time until which a response that begins now may last. */
  nextDeadline(): number;
  /** Stops the timer. */
  close(): void;
}

export interface RotationOptions {
  readonly clock: Clock;
  /** Longest time of a response in milliseconds; 0 for no limit. */
  readonly maxConnectionMs: number;
  /** The open responses, in the order in which they began. */
  readonly open: ReadonlyMap<unknown, { readonly rotateAt: number; readonly writer: { rotate(): boolean } }>;
  /** Called for each response that was ended. */
  onRotated(): void;
}

/** Share of the time over which the ends are spread: clients that came together after a restart do not leave together. */
const SPREAD = 0.2;
/** Number of looks at the open responses within the longest time. One look ends few responses. */
const LOOKS = 500;

/**
 * Looks at the open responses at intervals. A response ends at most `maxConnectionMs` after its beginning. One whose
 * client cannot reconnect at that time stays open, and is looked at again.
 */
export function createRotation({ clock, maxConnectionMs, open, onRotated }: RotationOptions): Rotation {
  if (maxConnectionMs === 0) return { nextDeadline: () => Number.POSITIVE_INFINITY, close() {} };
  const lookMs = maxConnectionMs / LOOKS;
  let cancel = clock.after(lookMs, look);

  function look(): void {
    // The next look may be late, but not by more than it takes to come.
    const due = clock.now() + 2 * lookMs;
    const newest = due + SPREAD * maxConnectionMs;
    for (const { rotateAt, writer } of open.values()) {
      // All later responses began later still.
      if (rotateAt > newest) break;
      if (rotateAt <= due && writer.rotate()) onRotated();
    }
    cancel = clock.after(lookMs, look);
  }

  return {
    nextDeadline: () => clock.now() + maxConnectionMs * (1 - SPREAD * Math.random()),
    close: () => cancel(),
  };
}
