import type { EventMessage, FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import { FastifySSEPlugin } from 'fastify-sse-v2';
import { createFrames, type FrameSource, type Frames } from './sse-frames.ts';

declare module 'fastify' {
  interface FastifyReply {
    /**
     * Streams a source as Server-Sent Events until it has finished or the client leaves, and
     * detaches from it in either case. Headers and `opening` leave at once; without a source they
     * are all there is.
     */
    stream<T>(opening: readonly EventMessage[], source?: FrameSource<T>): FastifyReply;
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

/** How many times in one `heartbeatMs` silence is looked for. */
const LOOKS = 4;

/**
 * `reply.stream()`: the only user of fastify-sse-v2, and where its traps are dealt with. It never
 * closes its iterable when the client leaves, dies of one that throws, misses a client that left
 * before it began, and overwrites headers unless the head was sent before.
 */
export default fp(
  async (fastify) => {
    const { clock, metrics, config } = fastify;
    const { highWaterMark, heartbeatMs, stallMs } = config.streams;
    await fastify.register(FastifySSEPlugin, { highWaterMark });

    const open = new Map<FastifyReply, { frames: Frames; closed: Promise<void> }>();

    // One timer for all responses.
    const tickMs = heartbeatMs / LOOKS;
    let cancelTick = clock.after(tickMs, tick);
    function tick(): void {
      const silentSince = clock.now() - heartbeatMs + tickMs;
      for (const { frames } of open.values()) frames.beat(silentSince);
      cancelTick = clock.after(tickMs, tick);
    }
    fastify.addHook('onClose', async () => cancelTick());

    function stream<T>(this: FastifyReply, opening: readonly EventMessage[], source?: FrameSource<T>): FastifyReply {
      const { raw, log } = this;
      this.hijack();
      // Its `close` event has passed if the client left while the handler still worked.
      if (raw.destroyed) {
        source?.close();
        return this;
      }
      const frames = createFrames(opening, source, clock, log);
      const { socket } = raw;
      const bytesBefore = socket?.bytesWritten ?? 0;
      metrics.responsesOpen.inc();
      const closed = new Promise<void>((resolve) => {
        raw.once('close', () => {
          open.delete(this);
          frames.close();
          metrics.responsesOpen.dec();
          metrics.eventsOut.inc(frames.count);
          metrics.bytesOut.inc((socket?.bytesWritten ?? 0) - bytesBefore);
          if (!raw.writableFinished) metrics.responsesAborted.inc();
          resolve();
        });
      });
      open.set(this, { frames, closed });
      // Node's own idle timer of the socket: it knows of bytes that the kernel has taken since.
      raw.setTimeout(stallMs, () => {
        if (!frames.stalled) return;
        metrics.responsesStalled.inc();
        raw.destroy();
      });
      raw.writeHead(200, {
        ...(this.getHeaders() as Record<string, string>),
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache, no-transform',
        'x-accel-buffering': 'no',
      });
      this.sse(frames);
      return this;
    }
    fastify.decorateReply('stream', stream);

    fastify.decorate('responses', {
      get open() {
        return open.size;
      },
      async closed(ms: number) {
        let cancel = () => {};
        const late = new Promise<void>((resolve) => (cancel = clock.after(ms, resolve)));
        await Promise.race([late, Promise.all([...open.values()].map((response) => response.closed))]);
        cancel();
        for (const reply of open.keys()) reply.raw.destroy();
      },
    });
  },
  { name: 'sse', dependencies: ['config', 'clock', 'metrics'] },
);
