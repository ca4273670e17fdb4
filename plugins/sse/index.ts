import type { FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';
import { waitAtMost } from '../clock.ts';
import type { EventFeed, OutgoingEvent } from './api.ts';
import { createRotation } from './rotation.ts';
import { SseWriter } from './writer.ts';

declare module 'fastify' {
  interface FastifyReply {
    /**
     * Streams a feed as Server-Sent Events until its last item or until the client leaves, then closes
     * the feed. Sends headers and the `opening` events immediately, in one write. Without a feed the response ends there.
     */
    stream<T>(opening: readonly OutgoingEvent[], feed?: EventFeed<T>): FastifyReply;
  }
  interface FastifyInstance {
    readonly responses: Responses;
  }
}

/** The SSE responses of this process. */
export interface Responses {
  readonly open: number;
  /**
   * Ends the responses whose clients can resume on another replica. They reconnect after the delay of their opening
   * block, which spreads them. A shorter delay would need an event of its own, which some decoders take for a message
   * without data, and it would stay in force after the drain.
   */
  disconnectResumable(): void;
  /** Resolves when all open responses have closed. After `ms` milliseconds it destroys the rest. */
  waitUntilClosed(ms: number): Promise<void>;
}

export interface SseOptions {
  /** Silence in milliseconds after which a comment keeps the connection open. */
  readonly heartbeatMs: number;
  /** Milliseconds after which a client that reads nothing is cut off. */
  readonly stallMs: number;
  /** Milliseconds after which a response is ended whose client reconnects; 0 for never. */
  readonly maxConnectionMs: number;
}

interface OpenResponse {
  readonly writer: { sendHeartbeat(silentSince: number): void; disconnect(): void; rotate(): boolean };
  readonly closed: Promise<void>;
  /** Time from which the response is to end if its client reconnects. */
  readonly rotateAt: number;
}

const TICKS_PER_HEARTBEAT = 4;

/** Time that the last event of a caller whose key was revoked gets to reach a client that reads slowly. */
const REVOKED_CUT_MS = 3_000;

const HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
  // Asks proxies to pass on each piece of the body at once (RFC 10036).
  incremental: '?1',
};

/** Adds `reply.stream()` and `fastify.responses`. */
export default fp<SseOptions>(
  async (fastify, { heartbeatMs, stallMs, maxConnectionMs }) => {
    const { clock, metrics } = fastify;
    const open = new Map<FastifyReply, OpenResponse>();

    // One timer serves all responses.
    const tickMs = heartbeatMs / TICKS_PER_HEARTBEAT;
    let cancelTick = clock.after(tickMs, tick);
    function tick(): void {
      const silentSince = clock.now() - heartbeatMs + tickMs;
      for (const { writer } of open.values()) writer.sendHeartbeat(silentSince);
      cancelTick = clock.after(tickMs, tick);
    }
    const rotation = createRotation({ clock, maxConnectionMs, open, onRotated: () => metrics.responsesRotated.inc() });
    fastify.addHook('onClose', async () => {
      cancelTick();
      rotation.close();
    });

    function stream<T>(this: FastifyReply, opening: readonly OutgoingEvent[], feed?: EventFeed<T>): FastifyReply {
      const { raw, log, request } = this;
      const { socket } = request.raw;
      this.headers(HEADERS);
      this.hijack();
      // If the client left while the handler was still working, `close` has fired already.
      if (raw.destroyed || socket.destroyed) {
        feed?.close();
        return this;
      }
      const writer = new SseWriter(raw, feed, { clock, log, intervals: metrics.interEventSeconds });
      const bytesBefore = socket.bytesWritten;
      let hasStalled = false;
      let cancelCut = () => {};
      const { credential } = (request.identity as Identity | undefined) ?? {};
      const removeListener = credential?.onRevoked(() => {
        cancelCut = clock.after(REVOKED_CUT_MS, () => raw.destroy());
      });
      metrics.responsesOpen.inc();
      const closed = new Promise<void>((resolve) => {
        const onClose = () => {
          socket.off('close', onClose);
          if (!open.delete(this)) return;
          removeListener?.();
          cancelCut();
          writer.close();
          metrics.responsesOpen.dec();
          metrics.eventsOut.inc(writer.count);
          metrics.bytesOut.inc(socket.bytesWritten - bytesBefore);
          if (hasStalled) metrics.responsesStalled.inc();
          else if (!raw.writableFinished && writer.hasBrokenOff) metrics.countRequest(request, raw.statusCode);
          else if (!raw.writableFinished) metrics.responsesAborted.inc();
          resolve();
        };
        raw.once('close', onClose);
        // A pipelined response gets its socket only when the response before it has ended.
        socket.once('close', onClose);
      });
      open.set(this, { writer, closed, rotateAt: rotation.nextDeadline() });
      // Node restarts this timer whenever the kernel accepts bytes.
      raw.setTimeout(stallMs, () => {
        // `writableNeedDrain` cannot be used: it is false after the last event was written.
        if (raw.writableLength === 0) return;
        hasStalled = true;
        raw.destroy();
      });
      raw.on('error', () => {}); // 'close' follows.
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
        for (const { writer } of open.values()) writer.disconnect();
      },
      async waitUntilClosed(ms: number) {
        await waitAtMost(clock, ms, Promise.all([...open.values()].map(({ closed }) => closed)));
        for (const reply of open.keys()) reply.raw.destroy();
      },
    });
  },
  { name: 'sse', dependencies: ['clock', 'metrics'] },
);
