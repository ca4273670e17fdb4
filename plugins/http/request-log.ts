import { isIP } from 'node:net';
import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';

/**
 * Logs one line per answered request, with its owner and the address of its client. The query is left out: it may hold
 * a question. Streams log their own line when they end, because Fastify calls `onResponse` only for responses that
 * were not cut. Every line of a request has the address.
 */
export default fp(
  async (fastify) => {
    fastify.addHook('onRequest', async (request, reply) => {
      reply.header('x-request-id', request.id);
      // A gateway that is trusted may pass on any text as an address.
      if (isIP(request.ip) !== 0) request.log = request.log.child({ clientAddress: request.ip });
      reply.log = request.log;
    });
    fastify.addHook('onResponse', async (request, reply) => {
      if (String(reply.getHeader('content-type')).startsWith('text/event-stream')) return;
      const level = reply.statusCode >= 500 ? 'warn' : request.routeOptions.logLevel === 'silent' ? 'debug' : 'info';
      request.log[level](
        {
          method: request.method,
          route: request.routeOptions.url ?? null,
          status: reply.statusCode,
          durationMs: Math.round(reply.elapsedTime),
          // Undefined on public routes, and without valid credentials.
          owner: (request.identity as Identity | undefined)?.owner,
        },
        'request',
      );
    });
  },
  { name: 'request-log' },
);
