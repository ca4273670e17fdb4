import { performance } from 'node:perf_hooks';
import underPressure from '@fastify/under-pressure';
import fp from 'fastify-plugin';
import { createReadInterval } from './read-interval.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly load: Load;
  }
}

/** What the core still bears: how often upstreams are read, and whether there is time for one more answer. */
export interface Load {
  /** Least milliseconds between two reads of one connection to an upstream now. */
  readIntervalMs(): number;
  /** Calls `then` once that time has passed; on a busy core up to a quarter later, by chance. */
  afterInterval(then: () => void): void;
  /** Whether a new question should be refused, since one more answer would slow all others. */
  isOverloaded(): boolean;
}

/** What the delay is the mean of: shorter, and a moment in which many come at once counts as overload. */
const DELAY_SAMPLE_MS = 1_000;

/**
 * `fastify.load`. A core that is merely busy keeps its pace in longer frames. The load is too high
 * when those are at their longest, or when something keeps the event loop from turning.
 */
export default fp(
  async (fastify) => {
    const { clock, config, metrics } = fastify;
    const { flushMs, maxFlushMs } = config.streams;
    const { maxEventLoopDelayMs } = config.limits;
    await fastify.register(underPressure, {
      maxEventLoopDelay: maxEventLoopDelayMs,
      sampleInterval: DELAY_SAMPLE_MS,
      // New questions ask for themselves; readers that come back are never turned away for it.
      pressureHandler: () => {},
    });

    let before = performance.eventLoopUtilization();
    const readInterval = createReadInterval({
      minMs: flushMs,
      maxMs: Math.max(flushMs, maxFlushMs),
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
      readIntervalMs: readInterval.ms,
      afterInterval: (then) => void clock.after(readInterval.nextMs(), then),
      isOverloaded: () => maxEventLoopDelayMs > 0 && (fastify.isUnderPressure() || readInterval.isSaturated()),
    };
    fastify.decorate('load', load);
  },
  { name: 'load', dependencies: ['config', 'clock', 'metrics'] },
);
