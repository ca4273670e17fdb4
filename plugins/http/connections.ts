import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { PublicError } from './api.ts';
import { ConnectionTable } from './connection-table.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** True for a small response, such as a probe's, that is sent also when there is no room for other requests. */
    isEssential?: boolean;
  }
  interface FastifyInstance {
    /** An `onRequest` hook for routes that read files: refuses a request if too many files are open. */
    limitFileResponses(request: FastifyRequest, reply: FastifyReply): Promise<void>;
  }
}

type Events = Parameters<FastifyReply['stream']>[0];

export interface ConnectionsOptions {
  /** Most connections of clients. */
  readonly maxConnections: number;
  /** Most requests that are answered at the same time, without essential ones. */
  readonly maxRequests: number;
  /** Most responses that read a file. */
  readonly maxFileResponses: number;
  /** Milliseconds after which a client that reads nothing is cut off. */
  readonly stallMs: number;
  /** Returns the response to an EventSource that is refused; undefined if it gets the status, as other clients do. */
  refusalEvents(error: PublicError, request: FastifyRequest): Events | undefined;
}

const RETRY_AFTER_MS = 1_000;
/** Least time between two log lines about a shortage. */
const LOG_INTERVAL_MS = 60_000;

/**
 * Bounds the connections of clients below the limit of open files, so that running responses, probes and metrics
 * always have a descriptor. Closes connections whose client does not read its response.
 */
export default fp<ConnectionsOptions>(
  async (fastify, { maxConnections, maxRequests, maxFileResponses, stallMs, refusalEvents }) => {
    const { server, clock, metrics, log } = fastify;
    let loggedAt = Number.NEGATIVE_INFINITY;
    const warn = (details: object, message: string) => {
      if (clock.now() - loggedAt < LOG_INTERVAL_MS) return;
      loggedAt = clock.now();
      log.warn(details, message);
    };
    const table = new ConnectionTable({
      maxConnections,
      maxRequests,
      onCount: (count) => metrics.connections.set(count),
      onClosed(state) {
        metrics.connectionsClosed.inc({ state });
        warn(
          { maxConnections },
          'too many connections; idle and new ones are closed. Raise the limit of open files or add replicas',
        );
      },
    });

    // Listeners of the server run before Fastify handles the request.
    server.prependListener('connection', (socket: Socket) => table.open(socket));
    server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
      table.begin(request, response);
      // Node restarts this timer whenever the connection sends or receives.
      request.socket.setTimeout(stallMs);
    });
    // Only the listening socket reports errors here. The connection that caused one is lost, no other.
    server.on('error', (error: NodeJS.ErrnoException) => {
      if (server.listening) warn({ code: error.code }, 'accepting a connection failed');
    });

    // Also called when an idle connection has been kept for long enough. With a listener, Node closes nothing itself.
    server.on('timeout', (socket: Socket) => {
      if (socket.destroyed) return;
      const isAnswering = table.isAnswering(socket);
      if (isAnswering && socket.writableLength === 0) return; // The answer is not ready.
      if (isAnswering) metrics.responsesStalled.inc();
      socket.destroy();
    });

    const refuse = (message: string): PublicError => {
      metrics.refusals.inc({ reason: 'descriptors' });
      return { status: 503, code: 'overloaded', message, retryAfterMs: RETRY_AFTER_MS };
    };

    fastify.addHook('onRequest', async (request, reply) => {
      if (request.routeOptions.config.isEssential || table.admit(request.raw, reply.raw)) return;
      const error = refuse('This replica has no room for another connection; retry later.');
      reply.header('connection', 'close');
      const events = refusalEvents(error, request);
      if (events === undefined) throw fastify.apiError(error);
      return reply.stream(events);
    });

    let fileResponses = 0;
    fastify.decorate('limitFileResponses', async ({ raw }: FastifyRequest, reply: FastifyReply) => {
      if (fileResponses >= maxFileResponses) {
        throw fastify.apiError(refuse('This replica sends too many files at the moment; retry later.'));
      }
      fileResponses += 1;
      table.onceClosed(raw, reply.raw, () => {
        fileResponses -= 1;
      });
    });
  },
  { name: 'connections', dependencies: ['clock', 'metrics', 'errors', 'cors'] },
);
