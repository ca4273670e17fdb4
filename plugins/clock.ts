import { performance } from 'node:perf_hooks';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    readonly clock: Clock;
  }
}

/** Time, as everything that waits takes it, so that tests can turn it by hand. */
export interface Clock {
  /** Monotonic milliseconds. */
  now(): number;
  /** Calls `fn` once after `ms`, unless the returned function is called before. */
  after(ms: number, fn: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, fn) {
    // Cut to whole milliseconds it would fire before its time.
    const timer = setTimeout(fn, Math.ceil(ms));
    return () => clearTimeout(timer);
  },
};

/** `fastify.clock` */
export default fp<{ clock?: Clock | undefined }>(
  async (fastify, { clock = systemClock }) => {
    fastify.decorate('clock', clock);
  },
  { name: 'clock' },
);
