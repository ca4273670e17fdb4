import type { EventMessage, FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import { type EventFeed, SseWriter } from './writer.ts';

declare module 'fastify' {
  interface FastifyReply {
    /**
     * Streams a source as Server-Sent Events until it has finished or the client leaves, and
     * detaches from it in either case. Headers and `opening` leave at once; without a source they
     * are all there is.
     */
    stream<T>(opening: readonly EventMessage[], source?: EventFeed<T>): FastifyReply;
  }
  interface FastifyInstance {
    readonly responses: Responses;
  }
}

export interface Responses {
  readonly open: number;
  /** Sends clients away, with when to come back, that find the rest of their stream elsewhere. */
  disconnectResumable(): void;
  /** Resolves once all open responses have closed, or after `ms`, when the rest is cut off. */
  waitUntilClosed(ms: number): Promise<void>;
}

interface OpenResponse {
  sendHeartbeat(silentSince: number): void;
  disconnect(farewell: EventMessage): void;
  readonly closed: Promise<void>;
}

/** How many times in one `heartbeatMs` silence is looked for. */
const TICKS_PER_HEARTBEAT = 4;

/** When a client comes back that is sent to another replica: soon, but not all at once. */
const RECONNECT_MS = { least: 50, spread: 450 };

const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
};

/** `reply.stream()`: the way out to the socket, and all that a client may do to it. */
export default fp(
  async (fastify) => {
    const { clock, metrics, config } = fastify;
    const { heartbeatMs, stallMs } = config.streams;
    const open = new Map<FastifyReply, OpenResponse>();

    // One timer for all responses.
    const tickMs = heartbeatMs / TICKS_PER_HEARTBEAT;
    let cancelTick = clock.after(tickMs, tick);
    function tick(): void {
      const silentSince = clock.now() - heartbeatMs + tickMs;
      for (const response of open.values()) response.sendHeartbeat(silentSince);
      cancelTick = clock.after(tickMs, tick);
    }
    fastify.addHook('onClose', async () => cancelTick());

    function stream<T>(this: FastifyReply, opening: readonly EventMessage[], source?: EventFeed<T>): FastifyReply {
      const { raw, log } = this;
      const { socket } = this.request.raw;
      this.headers(HEADERS);
      this.hijack();
      // Its `close` event has passed if the client left while the handler still worked.
      if (raw.destroyed || socket.destroyed) {
        source?.close();
        return this;
      }
      const writer = new SseWriter(raw, source, { clock, log, pace: metrics.interEventSeconds });
      const bytesBefore = socket.bytesWritten;
      let stalled = false;
      metrics.responsesOpen.inc();
      const closed = new Promise<void>((resolve) => {
        const onClose = () => {
          socket.off('close', onClose);
          if (!open.delete(this)) return;
          writer.close();
          metrics.responsesOpen.dec();
          metrics.eventsOut.inc(writer.count);
          metrics.bytesOut.inc(socket.bytesWritten - bytesBefore);
          if (stalled) metrics.responsesStalled.inc();
          else if (!raw.writableFinished) metrics.responsesAborted.inc();
          resolve();
        };
        raw.once('close', onClose);
        // A pipelined response has no socket of its own until the one before it is done.
        socket.once('close', onClose);
      });
      open.set(this, {
        sendHeartbeat: (since) => writer.sendHeartbeat(since),
        disconnect: (farewell) => writer.disconnect(farewell),
        closed,
      });
      // Node's own idle timer of the socket: it knows of bytes that the kernel has taken since.
      raw.setTimeout(stallMs, () => {
        // Not `writableNeedDrain`, which is false once the last event was written.
        if (raw.writableLength === 0) return;
        stalled = true;
        raw.destroy();
      });
      raw.on('error', () => {}); // 'close' follows
      raw.writeHead(200, this.getHeaders() as Record<string, string>);
      writer.start(opening);
      return this;
    }
    fastify.decorateReply('stream', stream);

    fastify.decorate('responses', {
      get open() {
        return open.size;
      },
      disconnectResumable() {
        for (const response of open.values()) {
          response.disconnect({ retry: RECONNECT_MS.least + Math.floor(Math.random() * RECONNECT_MS.spread) });
        }
      },
      async waitUntilClosed(ms: number) {
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
