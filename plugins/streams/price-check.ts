import type { FastifyInstance } from 'fastify';
import type { Identity } from '../auth/identity.ts';
import type { ModelRoute } from '../config/model-routes.ts';
import type { ModelPrice } from '../config/price-file.ts';
import { payersOf } from '../limits/reservation.ts';
import type { Prompt } from '../llm/client.ts';
import type { Llm } from '../llm/index.ts';

export interface PriceCheckOptions extends Pick<FastifyInstance, 'apiError' | 'invalidRequest'> {
  readonly llm: Pick<Llm, 'prices'>;
}

/**
 * Returns a function that returns the prices of all calls that a question may lead to; undefined for a caller without
 * a budget. It throws 403 if the model has no price, and 400 if the question has an option that makes it unknown.
 */
export function createPriceCheck({ llm, apiError, invalidRequest }: PriceCheckOptions) {
  return (route: ModelRoute, prompt: Prompt, identity: Identity): readonly ModelPrice[] | undefined => {
    if (payersOf(identity).every(({ budget }) => budget === undefined)) return undefined;
    const prices = llm.prices(route, prompt);
    if (prices !== undefined) return prices;
    if (prompt.options?.service_tier !== undefined && llm.prices(route) !== undefined) {
      throw invalidRequest(
        'Leave out service_tier: its price is unknown, and this key has a budget.',
        400,
        'service_tier',
      );
    }
    // A page need not know how the service is configured.
    const isPage = identity.holder !== undefined || identity.ticket !== undefined;
    const message = isPage
      ? 'This model cannot be used here; use another one.'
      : `The model ${route.name} has no price; a key with a budget cannot use it. Set models[].price or PRICES_FILE.`;
    throw apiError({ status: 403, code: 'forbidden', message });
  };
}
