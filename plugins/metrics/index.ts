import fp from 'fastify-plugin';
import { Registry } from 'prom-client';
import { configurationMetrics } from './configuration.ts';
import { generationMetrics } from './generations.ts';
import { processMetrics } from './process.ts';
import { redisMetrics } from './redis.ts';
import { responseMetrics } from './responses.ts';
import { startCountingBytesIn, upstreamMetrics } from './upstreams.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly metrics: Metrics;
  }
}

export type Metrics = ReturnType<typeof createMetrics>;

/** Creates all metrics. Label values are configured names and fixed words, so their number is bounded. */
function createMetrics(hasRedis: boolean) {
  const registry = new Registry();
  const registers = [registry];
  // Reads the limit of open files, so not only when the metrics are first asked for: no descriptor may be free then.
  const ofProcess = processMetrics();
  return {
    registry,
    ...configurationMetrics(registers),
    ...generationMetrics(registers),
    ...upstreamMetrics(registers),
    ...responseMetrics(registers),
    // Without Redis, the Redis gauge would report 0, as if Redis were unavailable.
    ...redisMetrics(hasRedis ? registers : []),
    /** Returns all metrics in the Prometheus text format. */
    text: () => Registry.merge([registry, ofProcess]).metrics(),
    contentType: registry.contentType,
  };
}

export interface MetricsOptions {
  /** True if Redis is configured; its metrics are registered only then. */
  readonly hasRedis: boolean;
}

/** Adds `fastify.metrics` and counts requests. */
export default fp<MetricsOptions>(
  async (fastify, { hasRedis }) => {
    const metrics = createMetrics(hasRedis);
    fastify.decorate('metrics', metrics);
    fastify.addHook('onClose', startCountingBytesIn([metrics.registry]));
    fastify.addHook('onResponse', async ({ method, routeOptions }, { statusCode }) => {
      metrics.requests.inc({ method, route: routeOptions.url ?? 'none', status: String(statusCode) });
    });
  },
  { name: 'metrics' },
);
