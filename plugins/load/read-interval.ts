import type { Clock } from '../clock.ts';

export interface FrameOptions {
  /** The frame of a core with time to spare, in milliseconds. */
  readonly leastMs: number;
  /** The frame of a full core; it grows further only where too much was let in. */
  readonly fullMs: number;
  readonly clock: Clock;
  /** Share of the time since the last call in which the event loop was busy, 0 to 1. */
  utilization(): number;
  /** From 0 to 1. */
  random(): number;
  onChange(ms: number): void;
}

export interface Frame {
  /** Milliseconds that it lasts now, for a connection that is read: where none is, it does not grow. */
  ms(): number;
  /** The same for one that begins it. */
  begin(): number;
  /** Whether one that comes new should be sent away: the surer, the fuller the core. */
  isFull(): boolean;
}

/** How often the core is looked at, at most. */
const WINDOW_MS = 100;
/** What share of the time the event loop shall be busy; beyond it, turns begin to pile up. */
const TARGET = 0.8;
/** How busy a core counts that reads no upstream, at most. */
const IDLE = TARGET / 2;
/** How much longer than that of a full core a frame can become. */
const STRETCH = 2;
/** At how much longer everybody is sent away. */
const CLOSED = 1.25;
/** A moment in which many come at once is not a full core: about so many windows count. */
const MEAN_OF = 8;
/** Where a frame of nothing begins to grow, in milliseconds. */
const FIRST_MS = 4;

/**
 * How long a frame lasts: the busier the core, the longer, since a longer one makes fewer reads and
 * writes of the same tokens. What a saturated core would make its streams wait for anyhow, they wait
 * for in order, and the loop has time for who comes new.
 *
 * Work is about inverse to the frame: one that is multiplied by how much too busy the core was sets
 * it right. Down it goes by the root of that, so that it does not swing.
 *
 * No timer: it is reckoned when somebody asks.
 */
export function createFrame({ leastMs, fullMs, clock, utilization, random, onChange }: FrameOptions): Frame {
  let ms = leastMs;
  let mean = leastMs;
  let used = false;
  let lookedAt = clock.now();
  onChange(ms);

  function look(): void {
    const now = clock.now();
    const windows = (now - lookedAt) / WINDOW_MS;
    if (windows < 1) return;
    lookedAt = now;
    const busy = utilization() || 0;
    // To refuse is work, too, but none that frames make less.
    const excess = (used ? busy : Math.min(busy, IDLE)) / TARGET;
    used = false;
    const wanted = Math.max(ms, FIRST_MS) * (excess > 1 ? excess : Math.sqrt(excess));
    const next = wanted <= FIRST_MS ? leastMs : Math.min(Math.max(wanted, leastMs), fullMs * STRETCH);
    mean += (next - mean) * (1 - (1 - 1 / MEAN_OF) ** windows);
    if (next !== ms) onChange(next);
    ms = next;
  }

  return {
    ms() {
      look();
      used = true;
      return ms;
    },
    begin() {
      look();
      // Those that were read in one long turn would else be read in one turn for ever.
      return ms + ((ms - leastMs) * random()) / 4;
    },
    isFull() {
      look();
      return mean > fullMs * (1 + (CLOSED - 1) * random());
    },
  };
}
