import fp from 'fastify-plugin';
import { waitAtMost } from './clock.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly lifecycle: Lifecycle;
  }
}

export interface Lifecycle {
  /** True if a gateway should send questions to this replica. */
  readonly ready: boolean;
  /**
   * Turns readiness off, refuses new questions, waits `drainMs` for running answers, then ends them with
   * an error and waits for their responses to close. With Redis, after `drainMs` readers are disconnected so
   * that they resume on other replicas, and their answers get `drainHandoverMs` more. What still runs then is handed
   * over to another replica if that can continue it. Idempotent: later calls wait for the first.
   */
  drain(): Promise<void>;
}

export interface LifecycleOptions {
  /** Milliseconds that running answers may continue. */
  readonly drainMs: number;
  /** With Redis: further milliseconds that they may continue. */
  readonly drainHandoverMs: number;
  /** True if the replica is not ready while Redis is unavailable. */
  readonly requireRedis: boolean;
}

/** Least time in milliseconds that clients have to read their final event after the drain. */
const FINAL_EVENT_MS = 2_000;

/** Adds `fastify.lifecycle`: readiness and the drain. `close()` drains too. */
export default fp<LifecycleOptions>(
  async (fastify, { drainMs, drainHandoverMs, requireRedis }) => {
    const { clock, streams, responses, log } = fastify;
    let ready = false;
    let draining: Promise<void> | undefined;

    const isRedisReady = () => !requireRedis || fastify.cluster?.connection.isAvailable === true;

    const drain = async () => {
      ready = false;
      streams.close();
      // With Redis, the gateway sends new connections to another replica. Without, readers must reconnect here.
      if (streams.shared) fastify.stopAccepting();
      const deadline = clock.now() + drainMs;
      if (streams.active > 0) {
        log.info({ streams: streams.active, drainMs }, 'draining; new questions are refused');
        await waitAtMost(clock, drainMs, streams.idle());
      }
      if (streams.shared) {
        responses.disconnectResumable();
        if (streams.active > 0) {
          log.info({ streams: streams.active, drainHandoverMs }, 'finishing answers for readers on other replicas');
          await waitAtMost(clock, drainHandoverMs, streams.idle());
        }
      }
      await streams.endAll();
      // Readers that came during the handover continue on the replica that has taken their stream over.
      if (streams.shared) responses.disconnectResumable();
      await responses.waitUntilClosed(Math.max(FINAL_EVENT_MS, deadline - clock.now()));
    };

    const lifecycle: Lifecycle = {
      get ready() {
        return ready && isRedisReady();
      },
      drain: () => (draining ??= drain()),
    };
    fastify.decorate('lifecycle', lifecycle);
    fastify.addHook('onReady', async () => {
      ready = true;
    });
    fastify.addHook('preClose', lifecycle.drain);
  },
  { name: 'lifecycle', dependencies: ['clock', 'redis', 'streams', 'sse', 'listeners'] },
);
