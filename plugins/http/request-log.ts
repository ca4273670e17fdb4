import fp from 'fastify-plugin';

/**
 * One line per answered request, the path without its query, which may hold a question. Streams have
 * a line of their own when they end: Fastify calls `onResponse` only for those that nobody cut.
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
