import fp from 'fastify-plugin';

/**
 * Counts each request to a route with access `api`, before its body is read: a body that is wrong or too long costs
 * as much as a good one. Other routes call `countRequest` themselves: `GET
 * /ask/stream` for a question, and the routes that read or stop a stream if it is unknown.
 */
export default fp(
  async (scope) => {
    scope.addHook('onRequest', async ({ identity, routeOptions }, reply) => {
      if (routeOptions.config.access === 'api') await scope.limits.countRequest(identity, reply);
    });
  },
  { name: 'limits-scope', dependencies: ['limits', 'auth-scope'] },
);
