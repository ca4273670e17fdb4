import type { Clock } from '../clock.ts';
import { createSustained } from './sustained.ts';

export interface ReadIntervalOptions {
  /** Interval of an idle core, in milliseconds. */
  readonly minMs: number;
  /** Interval of a full core, in milliseconds. It grows further only if too many questions were admitted. */
  readonly maxMs: number;
  readonly clock: Clock;
  /** Returns the share of time since the last call in which the event loop was busy, 0 to 1. */
  utilization(): number;
  /** Returns the CPU time of this process as a share of the time since the last call; above 1 with several threads. */
  cpuShare(): number;
  /** Returns a random number from 0 to 1. */
  random(): number;
  onChange(ms: number): void;
}

export interface ReadInterval {
  /** Returns the current interval, and marks it as used: an unused interval does not grow. */
  currentMs(): number;
  /** Returns the interval for a connection that waits from now on, with jitter. */
  nextMs(): number;
  /**
   * Returns true if a new question should be refused: connections have waited longer than `maxMs` for three seconds on
   * end. The longer the interval, the more likely.
   */
  isSaturated(): boolean;
}

/** Least time between two samples of the utilization. */
const SAMPLE_MS = 100;
/** Desired share of busy time. Above it, turns of the event loop begin to queue up. */
const TARGET_UTILIZATION = 0.8;
/** CPU share above which a short interval grows: a longer one is not visible in a page, and saves a third of the work. */
const SHORT_CPU_SHARE = 0.25;
/** Longest of the short intervals, in milliseconds: 20 updates of a text per second. */
const MAX_SHORT_MS = 50;
/** Longest interval, as a multiple of `maxMs`. */
const MAX_STRETCH = 1.6;
/** Multiple of `maxMs` at which every new question is refused. */
const REJECT_ALL_FACTOR = 1.25;
/** Number of samples in the mean, which levels single long turns of the event loop. */
const MEAN_SAMPLES = 8;
/**
 * Least share of reads after which their connection waits. With fewer, the core is busy with streams that are slower
 * than the interval: a longer one neither saves work nor delays them.
 */
const MIN_WAITING_SHARE = 0.25;
/** Interval from which an interval of 0 starts to grow, in milliseconds. */
const FIRST_STEP_MS = 4;

/**
 * Adapts the read interval to the utilization of the core. A longer interval means fewer reads and
 * writes for the same tokens. It keeps the order of streams and leaves time for new questions. A long one delays
 * streams no more than a full core would.
 *
 * A short interval grows with the CPU time, which it saves. A long one follows the utilization of the event loop, which
 * also counts what the process waits for, such as a busy neighbour.
 *
 * Work is roughly inversely proportional to the interval. Multiplying the interval by the excess
 * utilization corrects it in one step. It shrinks by the square root, so that it does not oscillate.
 *
 * Uses no timer: it samples when it is asked.
 */
export function createReadInterval(options: ReadIntervalOptions): ReadInterval {
  const { minMs, maxMs, clock, utilization, cpuShare, random, onChange } = options;
  let ms = minMs;
  let mean = minMs;
  let isUsed = false;
  /** Recent reads, and recent waits for the interval. Each sample halves them. */
  let [reads, waits] = [0, 0];
  let sampledAt = clock.now();
  const fullness = createSustained(clock.now);
  let isFull = false;
  onChange(ms);

  function sample(): void {
    const now = clock.now();
    const samples = (now - sampledAt) / SAMPLE_MS;
    if (samples < 1) return;
    sampledAt = now;
    /** Returns the interval at which a share of time would be as desired. */
    const intervalFor = (target: number, share: number) => {
      // Refusing questions is work too, but longer intervals do not reduce it.
      const excess = (isUsed ? share : Math.min(share, target / 2)) / target;
      return Math.max(ms, FIRST_STEP_MS) * (excess > 1 ? excess : Math.sqrt(excess));
    };
    const shortMs = Math.min(intervalFor(SHORT_CPU_SHARE, cpuShare()), MAX_SHORT_MS, maxMs);
    const wantedMs = Math.max(shortMs, intervalFor(TARGET_UTILIZATION, utilization() || 0));
    const delaysReads = waits > 0 && waits >= reads * MIN_WAITING_SHARE;
    [reads, waits, isUsed] = [reads / 2, waits / 2, false];
    const nextMs = wantedMs <= FIRST_STEP_MS ? minMs : Math.min(Math.max(wantedMs, minMs), maxMs * MAX_STRETCH);
    mean += (nextMs - mean) * (1 - (1 - 1 / MEAN_SAMPLES) ** samples);
    isFull = fullness.update(delaysReads && mean > maxMs);
    if (nextMs !== ms) onChange(nextMs);
    ms = nextMs;
  }

  return {
    currentMs() {
      sample();
      reads += 1;
      isUsed = true;
      return ms;
    },
    nextMs() {
      sample();
      waits += 1;
      // Without jitter, connections that were read in one long turn would always be read in the same turn.
      return ms + ((ms - minMs) * random()) / 4;
    },
    isSaturated() {
      sample();
      return isFull && mean > maxMs * (1 + (REJECT_ALL_FACTOR - 1) * random());
    },
  };
}
