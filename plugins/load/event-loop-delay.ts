import { monitorEventLoopDelay } from 'node:perf_hooks';

/** Measures by how much the event loop delays timers. */
export interface EventLoopDelay {
  /**
   * Returns the mean delay in milliseconds over the last window that has ended; 0 before that. A window ends with the
   * first call after a second.
   */
  meanMs(): number;
  stop(): void;
}

/** Interval of the samples, in milliseconds. A histogram holds whole intervals, so it is subtracted from the mean. */
const RESOLUTION_MS = 10;
/** Shortest window of the mean, in milliseconds. */
const WINDOW_MS = 1_000;

/** Starts to measure. Uses no timer: it reads the histogram when it is asked. */
export function measureEventLoopDelay(now: () => number): EventLoopDelay {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  let startedAt = now();
  let meanMs = 0;
  return {
    meanMs() {
      if (now() - startedAt >= WINDOW_MS) {
        startedAt = now();
        // Without a single sample, the event loop was blocked for the whole window.
        meanMs = histogram.count === 0 ? Number.POSITIVE_INFINITY : Math.max(0, histogram.mean / 1e6 - RESOLUTION_MS);
        histogram.reset();
      }
      return meanMs;
    },
    stop: () => histogram.disable(),
  };
}
