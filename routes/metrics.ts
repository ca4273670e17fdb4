import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';

/** Prometheus scrapes this. */
const metrics: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.get('/metrics', { exposeHeadRoute: true, logLevel: 'silent' }, async (_, reply) => {
    const { registry } = fastify.metrics;
    reply.type(registry.contentType);
    return registry.metrics();
  });
};

export default metrics;
