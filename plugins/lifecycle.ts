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
   * an error and waits for their responses to close. Idempotent: later calls wait for the first.
   */
  drain(): Promise<void>;
}

/** How long a client may take to read its last event after the drain. */
const LAST_WORD_MS = 2_000;

/** `fastify.lifecycle`: readiness, and an orderly end. `close()` drains too. */
export default fp(
  async (fastify) => {
    const { clock, config, streams, responses } = fastify;
    let ready = false;
    let draining: Promise<void> | undefined;

    const drain = async () => {
      ready = false;
      streams.refuse();
      const deadline = clock.now() + config.drainMs;
      if (streams.active > 0) {
        fastify.log.info({ streams: streams.active, drainMs: config.drainMs }, 'draining');
        let cancel = () => {};
        const late = new Promise<void>((resolve) => (cancel = clock.after(config.drainMs, resolve)));
        await Promise.race([late, streams.idle()]);
        cancel();
        streams.endAll();
      }
      await responses.closed(Math.max(LAST_WORD_MS, deadline - clock.now()));
    };

    const lifecycle: Lifecycle = {
      get ready() {
        return ready;
      },
      drain: () => (draining ??= drain()),
    };
    fastify.decorate('lifecycle', lifecycle);
    fastify.addHook('onReady', async () => {
      ready = true;
    });
    fastify.addHook('preClose', lifecycle.drain);
  },
  { name: 'lifecycle', dependencies: ['config', 'clock', 'streams', 'sse'] },
);
