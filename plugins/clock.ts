import { performance } from 'node:perf_hooks';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    readonly clock: Clock;
    /**
     * Waits for a promise, at most `ms` milliseconds. Resolves with its value, or undefined if time is up;
     * rejects if the promise rejects first. For routes, which import no values from plugins.
     */
    waitAtMost<T>(ms: number, promise: Promise<T>): Promise<T | undefined>;
  }
}

/** The source of time for everything that waits. Tests replace it with a clock that they advance. */
export interface Clock {
  /** Returns monotonic milliseconds. */
  now(): number;
  /** Calls `fn` once after `ms` milliseconds. The returned function cancels the call. */
  after(ms: number, fn: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, fn) {
    // setTimeout truncates fractions, so without `ceil` a timer could fire too early.
    const timer = setTimeout(fn, Math.ceil(ms));
    return () => clearTimeout(timer);
  },
};

/**
 * Waits for a promise, at most `ms` milliseconds. Resolves with its value, or undefined if time is up; rejects
 * if the promise rejects first.
 */
export async function waitAtMost<T>(clock: Clock, ms: number, promise: Promise<T>): Promise<T | undefined> {
  let cancel = () => {};
  const timeout = new Promise<undefined>((resolve) => {
    cancel = clock.after(ms, () => resolve(undefined));
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    cancel();
  }
}

/** Adds `fastify.clock` and `fastify.waitAtMost`. */
export default fp<{ clock?: Clock | undefined }>(
  async (fastify, { clock = systemClock }) => {
    fastify.decorate('clock', clock);
    fastify.decorate('waitAtMost', <T>(ms: number, promise: Promise<T>) => waitAtMost(clock, ms, promise));
  },
  { name: 'clock' },
);
