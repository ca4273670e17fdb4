import { performance } from 'node:perf_hooks';
import fp from 'fastify-plugin';
import { measureEventLoopDelay } from './event-loop-delay.ts';
import { createReadInterval } from './read-interval.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly load: Load;
  }
}

/** Measures the load of this process. Upstream reads and admission use it. */
export interface Load {
  /** Returns the least milliseconds between two reads of one upstream connection. */
  readIntervalMs(): number;
  /** Calls `fn` after one read interval. On a busy core up to a quarter later, at random. */
  afterInterval(fn: () => void): void;
  /**
   * Returns true if a new question should be refused, because it would slow down running answers. Near the
   * limit the result is random. Always false if `maxEventLoopDelayMs` is 0.
   * Only new questions check it: readers that resume are never refused for the load.
   */
  isOverloaded(): boolean;
}

export interface LoadOptions {
  /** Read interval of an idle core, in milliseconds. */
  readonly minIntervalMs: number;
  /** Read interval at which the core counts as full, in milliseconds. */
  readonly maxIntervalMs: number;
  /** Mean event-loop delay in milliseconds at which questions are refused; 0 never refuses. */
  readonly maxEventLoopDelayMs: number;
}

/**
 * Adds `fastify.load`. On a busy core upstreams are read less often, in longer intervals. The process is
 * overloaded when the interval is at its maximum, or when something blocks the event loop.
 */
export default fp<LoadOptions>(
  async (fastify, { minIntervalMs, maxIntervalMs, maxEventLoopDelayMs }) => {
    const { clock, metrics } = fastify;
    const delay = measureEventLoopDelay();
    fastify.addHook('onClose', async () => delay.stop());

    let before = performance.eventLoopUtilization();
    const readInterval = createReadInterval({
      minMs: minIntervalMs,
      maxMs: Math.max(minIntervalMs, maxIntervalMs),
      clock,
      utilization() {
        const now = performance.eventLoopUtilization();
        const { utilization } = performance.eventLoopUtilization(now, before);
        before = now;
        return utilization;
      },
      random: Math.random,
      onChange: (ms) => metrics.upstreamReadIntervalSeconds.set(ms / 1_000),
    });
    const load: Load = {
      readIntervalMs: readInterval.currentMs,
      afterInterval: (fn) => void clock.after(readInterval.nextMs(), fn),
      isOverloaded: () =>
        maxEventLoopDelayMs > 0 && (delay.meanMs() > maxEventLoopDelayMs || readInterval.isSaturated()),
    };
    fastify.decorate('load', load);
  },
  { name: 'load', dependencies: ['clock', 'metrics'] },
);
