import fp from 'fastify-plugin';

/**
 * Logs one line per answered request. The query is left out: it may hold a question. Streams log their
 * own line when they end, because Fastify calls `onResponse` only for responses that were not cut.
 */
export default fp(
  async (fastify) => {
    fastify.addHook('onRequest', async (request, reply) => {
      reply.header('x-request-id', request.id);
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
        },
        'request',
      );
    });
  },
  { name: 'request-log' },
);
