import type { FastifyPluginAsync } from 'fastify';
import { errorResponses, PUBLIC } from '../responses.ts';

/** Metrics for Prometheus. */
const metrics: FastifyPluginAsync = async (fastify) => {
  fastify.get(
    '/metrics',
    {
      exposeHeadRoute: true,
      logLevel: 'silent',
      config: { isEssential: true },
      schema: {
        tags: ['Operation'],
        summary: 'Get metrics in the text format of Prometheus',
        security: PUBLIC,
        response: {
          200: { description: 'All metrics', content: { 'text/plain': { schema: { type: 'string' } } } },
          ...errorResponses(),
        },
      },
    },
    async (_, reply) => {
      reply.type(fastify.metrics.contentType);
      return fastify.metrics.text();
    },
  );
};

export default metrics;
