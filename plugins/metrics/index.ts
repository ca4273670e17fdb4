import fp from 'fastify-plugin';
import { Registry } from 'prom-client';
import { generationMetrics } from './generations.ts';
import { processMetrics } from './process.ts';
import { redisMetrics } from './redis.ts';
import { responseMetrics } from './responses.ts';
import { countBytesIn, upstreamMetrics } from './upstreams.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly metrics: Metrics;
  }
}

export type Metrics = ReturnType<typeof createMetrics>;

/** All that is counted. Labels are bounded: configured names and fixed words only. */
function createMetrics(hasRedis: boolean) {
  const registry = new Registry();
  const registers = [registry];
  return {
    registry,
    ...generationMetrics(registers),
    ...upstreamMetrics(registers),
    ...responseMetrics(registers),
    // A gauge that nobody sets would say that Redis is away.
    ...redisMetrics(hasRedis ? registers : []),
    /** Everything in the form of Prometheus. */
    text: () => Registry.merge([registry, processMetrics()]).metrics(),
    contentType: registry.contentType,
  };
}

/** `fastify.metrics` */
export default fp(
  async (fastify) => {
    const metrics = createMetrics(fastify.config.redis !== undefined);
    fastify.decorate('metrics', metrics);
    fastify.addHook('onClose', countBytesIn([metrics.registry]));
    fastify.addHook('onResponse', async ({ method, routeOptions }, { statusCode }) => {
      metrics.requests.inc({ method, route: routeOptions.url ?? 'none', status: String(statusCode) });
    });
  },
  { name: 'metrics', dependencies: ['config'] },
);
