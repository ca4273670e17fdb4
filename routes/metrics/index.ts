import type { FastifyPluginAsync } from 'fastify';
import { errorResponses, PUBLIC } from '../responses.ts';
import { shareRenderings } from './shared-rendering.ts';

/** Least time between two renderings. One takes several milliseconds in which nothing else is done. */
const RENDER_INTERVAL_MS = 100;

/** Metrics for Prometheus. */
const metrics: FastifyPluginAsync = async (fastify) => {
  const rendering = shareRenderings(fastify.metrics.text, fastify.clock, RENDER_INTERVAL_MS);
  fastify.addHook('onClose', async () => rendering.close());

  fastify.get(
    '/metrics',
    {
      exposeHeadRoute: true,
      logLevel: 'silent',
      // Not limited by address: during an attack, operators need the metrics most.
      config: { isEssential: true, isProbe: true },
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
      return rendering.text();
    },
  );
};

export default metrics;
