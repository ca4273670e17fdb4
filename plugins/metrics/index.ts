import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { Counter, Registry } from 'prom-client';
import type { Identity } from '../auth/identity.ts';
import { configurationMetrics } from './configuration.ts';
import { generationMetrics } from './generations.ts';
import { createKeyLabels } from './key-labels.ts';
import { processMetrics } from './process.ts';
import { redisMetrics } from './redis.ts';
import { responseMetrics } from './responses.ts';
import { storedMetrics } from './stored.ts';
import { startCountingBytesIn, upstreamMetrics } from './upstreams.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly metrics: Metrics;
  }
}

export type Metrics = ReturnType<typeof createMetrics>;

/** Creates all metrics. Label values are configured names and fixed words, so their number is bounded. */
function createMetrics({ hasRedis, droppedLogLines = () => 0 }: MetricsOptions) {
  const registry = new Registry();
  const registers = [registry];
  // Reads the limit of open files, so not only when the metrics are first asked for: no descriptor may be free then.
  const ofProcess = processMetrics();
  const ofGenerations = generationMetrics(registers);
  const ofResponses = responseMetrics(registers);
  const keyLabels = createKeyLabels([ofGenerations.tokens, ofGenerations.cost, ofResponses.requests]);
  return {
    registry,
    keyLabels,
    /** Counts a request that was answered. */
    countRequest(request: FastifyRequest, status: number) {
      const { method, routeOptions } = request;
      const key = keyLabels.labelOf(callerOf(request));
      ofResponses.requests.inc({ method, route: routeOptions.url ?? 'none', status: String(status), key });
    },
    ...configurationMetrics(registers),
    ...ofGenerations,
    logLinesDropped: new Counter({
      name: 'sluice_log_lines_dropped_total',
      help: 'Log lines dropped because standard output was not read',
      registers,
      collect() {
        this.reset();
        this.inc(droppedLogLines());
      },
    }),
    ...upstreamMetrics(registers),
    ...ofResponses,
    ...storedMetrics(registers),
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
  /** Returns the number of log lines that were dropped until now. */
  readonly droppedLogLines?: () => number;
}

/** Adds `fastify.metrics` and counts requests. */
export default fp<MetricsOptions>(
  async (fastify, options) => {
    const metrics = createMetrics(options);
    fastify.decorate('metrics', metrics);
    fastify.addHook('onClose', startCountingBytesIn([metrics.registry]));
    fastify.addHook('onResponse', async (request, { statusCode }) => metrics.countRequest(request, statusCode));
  },
  { name: 'metrics' },
);

/** Returns the owner that was identified. On public routes of the api scope nobody is, although there is an identity. */
function callerOf({ is404, identity, routeOptions }: FastifyRequest): string | undefined {
  if (is404 || routeOptions.config?.access === 'public') return undefined;
  // Undefined outside of the api scope, and if the credentials were refused.
  return (identity as Identity | undefined)?.owner;
}
