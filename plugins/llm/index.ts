import fp from 'fastify-plugin';
import { createModelRoutes, type ModelRoute } from '../config/model-routes.ts';
import { createLlmClient, type LlmClient } from './client.ts';
import { RetryBudget } from './retry-budget.ts';
import { createTargets, type TargetState } from './targets.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly llm: Llm;
  }
}

export interface Llm extends LlmClient {
  /**
   * The route of a public model name, or of the default one.
   * @throws 404 with the names that are configured
   */
  route(model: string | undefined): ModelRoute;
  readonly models: readonly string[];
  /** Whether one of the route's providers has room for a call. */
  hasCapacity(route: ModelRoute): boolean;
  /** Targets whose last call failed. */
  targets(): readonly TargetState[];
}

/** `fastify.llm`: which upstream answers, and asking it. */
export default fp(
  async (fastify) => {
    let routes = createModelRoutes(fastify.config);
    fastify.onConfigReload((next) => {
      routes = createModelRoutes(next);
    });
    const { clock, metrics, tracing, config } = fastify;
    const mostCalls = (provider: string) => config.providers[provider]?.maxConcurrent ?? Number.POSITIVE_INFINITY;
    const targets = createTargets(fastify.providers, mostCalls, clock, metrics);
    const client = createLlmClient({ targets, budget: new RetryBudget(clock), clock, metrics, tracing });
    const llm: Llm = {
      ...client,
      get models() {
        return routes.names;
      },
      hasCapacity: targets.hasCapacity,
      targets: targets.states,
      route(model) {
        const route = routes.find(model);
        if (route) return route;
        throw fastify.httpErrors.notFound(`This model is not configured. Configured: ${routes.names.join(', ')}.`);
      },
    };
    fastify.decorate('llm', llm);
  },
  { name: 'llm', dependencies: ['config', 'providers', 'clock', 'metrics', 'tracing', 'errors'] },
);
