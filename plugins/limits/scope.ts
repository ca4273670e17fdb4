import fp from 'fastify-plugin';

/**
 * Counts every request of the scope whose route takes keys and tokens only. Requests that read or stop
 * a stream are not limited; routes count those that guess at one.
 */
export default fp(
  async (scope) => {
    scope.addHook('preHandler', async ({ identity, routeOptions }, reply) => {
      if (routeOptions.config.access === 'api') await scope.limits.countRequest(identity, reply);
    });
  },
  { name: 'limits-scope', dependencies: ['limits', 'auth-scope'] },
);
