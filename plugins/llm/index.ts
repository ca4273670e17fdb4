import fp from 'fastify-plugin';
import { createLlmClient, type LlmClient } from './client.ts';
import { createModelRoutes, type ModelRoute } from './model-routes.ts';

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
}

/** `fastify.llm`: which upstream answers, and asking it. */
export default fp(
  async (fastify) => {
    const routes = createModelRoutes(fastify.config);
    const client = createLlmClient(fastify.providers, fastify.clock, fastify.metrics);
    const llm: Llm = {
      ...client,
      models: routes.names,
      route(model) {
        const route = routes.find(model);
        if (route) return route;
        throw fastify.httpErrors.notFound(`This model is not configured. Configured: ${routes.names.join(', ')}.`);
      },
    };
    fastify.decorate('llm', llm);
  },
  { name: 'llm', dependencies: ['config', 'providers', 'clock', 'metrics', 'errors'] },
);
