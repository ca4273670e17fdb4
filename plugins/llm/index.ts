import fp from 'fastify-plugin';
import { type Identity, mayUseModel } from '../auth/identity.ts';
import { createModelRoutes, type ModelRoute, type ModelSettings } from '../config/model-routes.ts';
import type { ModelPrice } from '../config/price-file.ts';
import { commonPrice, pricesOfCalls, pricesOfTargets } from './call-price.ts';
import { createLlmClient, type LlmClient, type Prompt } from './client.ts';
import { requestFor } from './request-settings.ts';
import { RetryBudget } from './retry-budget.ts';
import { createTargets, type TargetState } from './targets.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly llm: Llm;
  }
}

export interface Llm extends LlmClient {
  /**
   * Returns the route of a public model name, or of the default model.
   * @param identity the caller, whose models are named if there is no such model; absent for all models
   * @throws 404 with the names of models that the caller may use
   */
  route(model: string | undefined, identity?: Pick<Identity, 'models'>): ModelRoute;
  /** Returns the price that all targets of a route have; undefined if they have none, or several. */
  commonPrice(route: ModelRoute): ModelPrice | undefined;
  /** Returns the prices of all calls that a prompt, or any prompt, may lead to; undefined if one is unknown. */
  prices(route: ModelRoute, prompt?: Prompt): readonly ModelPrice[] | undefined;
  /** Public names, the default first. */
  readonly models: readonly string[];
  /** Returns true if one of the route's providers can take another call. */
  hasCapacity(route: ModelRoute): boolean;
  /** Returns the targets that have failed since their last success. */
  targets(): readonly TargetState[];
}

/** Adds `fastify.llm`: finds the route of a model and calls its targets. */
export default fp<ModelSettings>(
  async (fastify, settings) => {
    let routes = createModelRoutes(settings);
    fastify.onConfigReload((next) => {
      routes = createModelRoutes(next);
      targets.retain(routes.names.flatMap((name) => routes.find(name) ?? []));
    });
    const { providers, prices, clock, metrics, tracing, audit, log } = fastify;
    const maxConcurrent = (name: string) => settings.providers[name]?.maxConcurrent ?? Number.POSITIVE_INFINITY;
    const targets = createTargets({
      providers,
      maxConcurrent,
      clock,
      metrics,
      onBreakerChange: audit.breakerChanged,
    });
    const onError = (err: unknown) => log.error({ err }, 'the end of an answer could not be reported');
    const budget = new RetryBudget(clock);
    const priceOf = prices.find;
    const client = createLlmClient({ targets, budget, clock, metrics, tracing, priceOf, onError });
    const llm: Llm = {
      ...client,
      get models() {
        return routes.names;
      },
      commonPrice: (route) => commonPrice(priceOf, route),
      prices(route, prompt) {
        if (prompt === undefined) return pricesOfTargets(priceOf, route);
        return pricesOfCalls(priceOf, route, (target) =>
          requestFor(prompt, target, targets.providerOf(target, route), route),
        );
      },
      hasCapacity: targets.hasCapacity,
      targets: targets.states,
      route(model, identity = {}) {
        const route = routes.find(model);
        if (route) return route;
        // Names of other models may belong to other customers.
        const names = routes.names.filter((name) => mayUseModel(identity, name));
        throw fastify.httpErrors.notFound(`Unknown model. Available models: ${names.join(', ') || 'none'}.`);
      },
    };
    fastify.decorate('llm', llm);
  },
  { name: 'llm', dependencies: ['audit', 'config', 'prices', 'providers', 'clock', 'metrics', 'tracing', 'errors'] },
);
