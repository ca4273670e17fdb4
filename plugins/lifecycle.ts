import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    readonly lifecycle: Lifecycle;
  }
}

export interface Lifecycle {
  /** Whether a gateway should send questions here. */
  readonly ready: boolean;
  /**
   * Turns readiness off, refuses new questions, gives running answers `drainMs`, then ends them with
   * an error and waits for their responses to close. Where other replicas have the same streams,
   * readers are sent there first, and their answers get `drainHandoverMs` more. Idempotent: later calls
   * wait for the first.
   */
  drain(): Promise<void>;
}

/** How long a client may take to read its last event after the drain. */
const FINAL_EVENT_MS = 2_000;

/** `fastify.lifecycle`: readiness, and an orderly end. `close()` drains too. */
export default fp(
  async (fastify) => {
    const { clock, config, streams, responses } = fastify;
    let ready = false;
    /** A replica that must not go on alone is not ready while Redis is away. */
    const isRedisReady = () => config.redis?.required !== true || fastify.cluster?.connection.isAvailable === true;
    let draining: Promise<void> | undefined;

    /** Until nothing runs any more, or for so long. */
    const waitUntilIdle = async (ms: number) => {
      let cancel = () => {};
      const late = new Promise<void>((resolve) => (cancel = clock.after(ms, resolve)));
      await Promise.race([late, streams.idle()]);
      cancel();
    };

    const drain = async () => {
      ready = false;
      streams.close();
      // The gateway goes to another replica at once. Without one, readers have nowhere else to come back to.
      if (streams.shared) fastify.stopAccepting();
      const deadline = clock.now() + config.drainMs;
      if (streams.active > 0) {
        fastify.log.info({ streams: streams.active, drainMs: config.drainMs }, 'draining');
        await waitUntilIdle(config.drainMs);
      }
      if (streams.shared) {
        responses.disconnectResumable();
        if (streams.active > 0) {
          fastify.log.info(
            { streams: streams.active, drainHandoverMs: config.drainHandoverMs },
            'finishing for other replicas',
          );
          await waitUntilIdle(config.drainHandoverMs);
        }
      }
      streams.endAll();
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
  { name: 'lifecycle', dependencies: ['config', 'clock', 'redis', 'streams', 'sse', 'listeners'] },
);
