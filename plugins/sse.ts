import type { EventMessage, FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import { type EventSource, SseWriter } from './sse-writer.ts';

declare module 'fastify' {
  interface FastifyReply {
    /**
     * Streams a source as Server-Sent Events until it has finished or the client leaves, and
     * detaches from it in either case. Headers and `opening` leave at once; without a source they
     * are all there is.
     */
    stream<T>(opening: readonly EventMessage[], source?: EventSource<T>): FastifyReply;
  }
  interface FastifyInstance {
    readonly responses: Responses;
  }
}

export interface Responses {
  readonly open: number;
  /** Resolves once all open responses have closed, or after `ms`, when the rest is cut off. */
  closed(ms: number): Promise<void>;
}

interface Open {
  beat(silentSince: number): void;
  readonly closed: Promise<void>;
}

/** How many times in one `heartbeatMs` silence is looked for. */
const LOOKS = 4;

/** `reply.stream()`: the way out to the socket, and all that a client may do to it. */
export default fp(
  async (fastify) => {
    const { clock, metrics, config } = fastify;
    const { heartbeatMs, stallMs } = config.streams;
    const open = new Map<FastifyReply, Open>();

    // One timer for all responses.
    const tickMs = heartbeatMs / LOOKS;
    let cancelTick = clock.after(tickMs, tick);
    function tick(): void {
      const silentSince = clock.now() - heartbeatMs + tickMs;
      for (const response of open.values()) response.beat(silentSince);
      cancelTick = clock.after(tickMs, tick);
    }
    fastify.addHook('onClose', async () => cancelTick());

    function stream<T>(this: FastifyReply, opening: readonly EventMessage[], source?: EventSource<T>): FastifyReply {
      const { raw, log } = this;
      this.hijack();
      // Its `close` event has passed if the client left while the handler still worked.
      if (raw.destroyed) {
        source?.close();
        return this;
      }
      const writer = new SseWriter(raw, source, clock, log);
      const { socket } = raw;
      const bytesBefore = socket?.bytesWritten ?? 0;
      metrics.responsesOpen.inc();
      const closed = new Promise<void>((resolve) => {
        raw.once('close', () => {
          open.delete(this);
          writer.close();
          metrics.responsesOpen.dec();
          metrics.eventsOut.inc(writer.count);
          metrics.bytesOut.inc((socket?.bytesWritten ?? 0) - bytesBefore);
          if (!raw.writableFinished) metrics.responsesAborted.inc();
          resolve();
        });
      });
      open.set(this, { beat: (since) => writer.beat(since), closed });
      // Node's own idle timer of the socket: it knows of bytes that the kernel has taken since.
      raw.setTimeout(stallMs, () => {
        if (!raw.writableNeedDrain) return;
        metrics.responsesStalled.inc();
        raw.destroy();
      });
      raw.on('error', () => {}); // 'close' follows
      raw.writeHead(200, {
        ...(this.getHeaders() as Record<string, string>),
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache, no-transform',
        'x-accel-buffering': 'no',
      });
      writer.start(opening);
      return this;
    }
    fastify.decorateReply('stream', stream);

    fastify.decorate('responses', {
      get open() {
        return open.size;
      },
      async closed(ms: number) {
        let cancel = () => {};
        const late = new Promise<void>((resolve) => {
          cancel = clock.after(ms, resolve);
        });
        await Promise.race([late, Promise.all([...open.values()].map((response) => response.closed))]);
        cancel();
        for (const reply of open.keys()) reply.raw.destroy();
      },
    });
  },
  { name: 'sse', dependencies: ['config', 'clock', 'metrics'] },
);
