import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';

/** Probes. `/livez`: the process works. `/readyz`: questions may be sent here (503 at start and drain). */
const health: FastifyPluginAsyncTypebox = async (fastify) => {
  const options = { exposeHeadRoute: true, logLevel: 'silent' } as const;

  fastify.get('/livez', options, async (_, reply) => {
    reply.header('cache-control', 'no-store');
    return { status: 'ok' };
  });

  // `?verbose` also shows the circuit breakers of targets whose last call failed.
  fastify.get('/readyz', options, async ({ query }, reply) => {
    const { ready } = fastify.lifecycle;
    reply.header('cache-control', 'no-store').code(ready ? 200 : 503);
    const status = ready ? 'ok' : 'unavailable';
    return 'verbose' in (query as object) ? { status, targets: fastify.llm.targets() } : { status };
  });
};

export default health;
