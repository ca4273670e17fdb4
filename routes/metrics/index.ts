import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';

/** Prometheus scrapes this. */
const metrics: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.get('/metrics', { exposeHeadRoute: true, logLevel: 'silent' }, async (_, reply) => {
    reply.type(fastify.metrics.contentType);
    return fastify.metrics.text();
  });
};

export default metrics;
