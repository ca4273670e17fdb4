import { monitorEventLoopDelay } from 'node:perf_hooks';

/** Measures by how much the event loop delays timers. */
export interface EventLoopDelay {
  /** Returns the mean delay in milliseconds over the last window; 0 before the first window has ended. */
  meanMs(): number;
  stop(): void;
}

/** Interval of the samples, in milliseconds. A histogram holds whole intervals, so it is subtracted from the mean. */
const RESOLUTION_MS = 10;
/** Window of the mean, in milliseconds. In a shorter one a burst of questions would count as overload. */
const WINDOW_MS = 1_000;

/**
 * Starts to measure. Its timer reads a histogram in memory and nothing else: in a timer, a call that needs a file
 * descriptor, such as `process.memoryUsage()`, would end the process when none is free.
 */
export function measureEventLoopDelay(): EventLoopDelay {
  const histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  histogram.enable();
  let meanMs = 0;
  const timer = setInterval(() => {
    // Without a single sample, the event loop was blocked for the whole window.
    meanMs = histogram.count === 0 ? Number.POSITIVE_INFINITY : Math.max(0, histogram.mean / 1e6 - RESOLUTION_MS);
    histogram.reset();
  }, WINDOW_MS);
  timer.unref();
  return {
    meanMs: () => meanMs,
    stop() {
      clearInterval(timer);
      histogram.disable();
    },
  };
}
