import type { Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';
import { measureEventLoopDelay } from './event-loop-delay.ts';
import { createReadInterval } from './read-interval.ts';
import { createSustained } from './sustained.ts';
import { createWorkShares } from './work-shares.ts';

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
   * Returns true if a new question should be refused: for three seconds on end, running answers could not be updated
   * once per `maxIntervalMs`, or the event loop was later than `maxEventLoopDelayMs`. Near the limit the result is
   * random. Always false if `maxEventLoopDelayMs` is 0.
   * Only new questions check it: readers that resume are never refused for the load.
   * @param owner if given, true only for owners that cause most of the load. Alone, an owner causes all of it.
   */
  isOverloaded(owner?: string): boolean;
}

export interface LoadOptions {
  /** Read interval of an idle core, in milliseconds. */
  readonly minIntervalMs: number;
  /** Read interval at which the core counts as full, in milliseconds. */
  readonly maxIntervalMs: number;
  /** Event-loop delay in milliseconds, for three seconds on end, from which questions are refused; 0 never refuses. */
  readonly maxEventLoopDelayMs: number;
  /** Returns the CPU time of all threads in microseconds; by default that of this process. Takes no descriptor. */
  readonly cpuUsage?: () => NodeJS.CpuUsage;
}

/** Rough costs, in milliseconds of a core. They only have to tell owners apart whose work differs by far. */
const REQUEST_MS = 0.5;
const BYTES_READ_PER_MS = 100_000;
const BYTES_WRITTEN_PER_MS = 32_000;
/** Owner of requests without valid credentials. */
const NOBODY = '(nobody)';

/**
 * Adds `fastify.load`. On a busy core upstreams are read less often, in longer intervals. The process is
 * overloaded when the interval stays at its maximum, or when something keeps the event loop blocked. Then questions are
 * refused, of those owners first that cause most of the load.
 */
export default fp<LoadOptions>(
  async (fastify, { minIntervalMs, maxIntervalMs, maxEventLoopDelayMs, cpuUsage = () => process.cpuUsage() }) => {
    const { clock, metrics } = fastify;
    const delay = measureEventLoopDelay(clock.now);
    fastify.addHook('onClose', async () => delay.stop());

    const lateness = createSustained(clock.now);
    /** Returns true if the event loop has been late for three seconds on end. */
    const isLate = () => lateness.update(delay.meanMs() > maxEventLoopDelayMs);

    const shares = createWorkShares(clock.now);

    let before = performance.eventLoopUtilization();
    const cpuTime = () => {
      const { user, system } = cpuUsage();
      return { ms: (user + system) / 1_000, at: clock.now() };
    };
    let cpu = cpuTime();
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
      cpuShare() {
        const now = cpuTime();
        const share = (now.ms - cpu.ms) / (now.at - cpu.at);
        cpu = now;
        return share;
      },
      random: Math.random,
      onChange: (ms) => metrics.upstreamReadIntervalSeconds.set(ms / 1_000),
    });
    const load: Load = {
      readIntervalMs() {
        isLate();
        return readInterval.currentMs();
      },
      afterInterval: (fn) => void clock.after(readInterval.nextMs(), fn),
      isOverloaded: (owner) =>
        maxEventLoopDelayMs > 0 &&
        (isLate() || readInterval.isSaturated()) &&
        (owner === undefined || shares.isHeavy(owner)),
    };
    fastify.decorate('load', load);

    // Any request is work for its owner: also one that is refused, and one that its client cuts.
    fastify.addHook('onRequest', async (request, { raw }) => {
      const { socket } = request.raw;
      const before = transferMs(socket);
      raw.once('close', () => {
        const { owner = NOBODY } = (request.identity as Identity | undefined) ?? {};
        shares.add(owner, REQUEST_MS + transferMs(socket) - before);
      });
    });
  },
  { name: 'load', dependencies: ['clock', 'metrics'] },
);

/** Returns the work of all bytes of a connection. Requests that are injected have none. */
function transferMs({ bytesRead = 0, bytesWritten = 0 }: Partial<Socket>): number {
  return bytesRead / BYTES_READ_PER_MS + bytesWritten / BYTES_WRITTEN_PER_MS;
}
