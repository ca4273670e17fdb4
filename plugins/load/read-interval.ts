import type { Clock } from '../clock.ts';

export interface ReadIntervalOptions {
  /** The frame of a core with time to spare, in milliseconds. */
  readonly minMs: number;
  /** The frame of a full core; it grows further only where too much was let in. */
  readonly maxMs: number;
  readonly clock: Clock;
  /** Share of the time since the last call in which the event loop was busy, 0 to 1. */
  utilization(): number;
  /** From 0 to 1. */
  random(): number;
  onChange(currentMs: number): void;
}

export interface ReadInterval {
  /** Milliseconds that it lasts now, for a connection that is read: where none is, it does not grow. */
  ms(): number;
  /** The same for one that begins it. */
  nextMs(): number;
  /** Whether one that comes new should be sent away: the surer, the fuller the core. */
  isSaturated(): boolean;
}

/** How often the core is looked at, at most. */
const SAMPLE_MS = 100;
/** What share of the time the event loop shall be busy; beyond it, turns begin to pile up. */
const TARGET_UTILIZATION = 0.8;
/** How busy a core counts that reads no upstream, at most. */
const MAX_UNUSED_UTILIZATION = TARGET_UTILIZATION / 2;
/** How much longer than that of a full core a frame can become. */
const MAX_STRETCH = 2;
/** At how much longer everybody is sent away. */
const REJECT_ALL_FACTOR = 1.25;
/** A moment in which many come at once is not a full core: about so many windows count. */
const MEAN_SAMPLES = 8;
/** Where a frame of nothing begins to grow, in milliseconds. */
const FIRST_STEP_MS = 4;

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
export function createReadInterval({
  minMs,
  maxMs,
  clock,
  utilization,
  random,
  onChange,
}: ReadIntervalOptions): ReadInterval {
  let ms = minMs;
  let mean = minMs;
  let used = false;
  let sampledAt = clock.now();
  onChange(ms);

  function sample(): void {
    const now = clock.now();
    const samples = (now - sampledAt) / SAMPLE_MS;
    if (samples < 1) return;
    sampledAt = now;
    const busy = utilization() || 0;
    // To refuse is work, too, but none that frames make less.
    const excess = (used ? busy : Math.min(busy, MAX_UNUSED_UTILIZATION)) / TARGET_UTILIZATION;
    used = false;
    const targetMs = Math.max(ms, FIRST_STEP_MS) * (excess > 1 ? excess : Math.sqrt(excess));
    const nextValue = targetMs <= FIRST_STEP_MS ? minMs : Math.min(Math.max(targetMs, minMs), maxMs * MAX_STRETCH);
    mean += (nextValue - mean) * (1 - (1 - 1 / MEAN_SAMPLES) ** samples);
    if (nextValue !== ms) onChange(nextValue);
    ms = nextValue;
  }

  return {
    ms() {
      sample();
      used = true;
      return ms;
    },
    nextMs() {
      sample();
      // Those that were read in one long turn would else be read in one turn for ever.
      return ms + ((ms - minMs) * random()) / 4;
    },
    isSaturated() {
      sample();
      return mean > maxMs * (1 + (REJECT_ALL_FACTOR - 1) * random());
    },
  };
}
