import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';

/** Probes. `/livez`: the process works. `/readyz`: questions may be sent here (503 at start and drain). */
const health: FastifyPluginAsyncTypebox = async (fastify) => {
  const options = { exposeHeadRoute: true, logLevel: 'silent' } as const;

  fastify.get('/livez', options, async (_, reply) => {
    reply.header('cache-control', 'no-store');
    return { status: 'ok' };
  });

  fastify.get('/readyz', options, async (_, reply) => {
    const { ready } = fastify.lifecycle;
    reply.header('cache-control', 'no-store').code(ready ? 200 : 503);
    return { status: ready ? 'ok' : 'unavailable' };
  });
};

export default health;
