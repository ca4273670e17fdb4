import { isDeepStrictEqual } from 'node:util';
import type { ChatRequest } from '../../providers/types.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { ModelPrice } from '../config/price-file.ts';

/** Finds the prices of the calls of one question. Pure. */

/** Returns the price of a target; undefined if it is unknown. */
export type PriceOf = (target: Target, route: ModelRoute) => ModelPrice | undefined;

/** Values of `service_tier` with the usual price. `auto` leaves the choice to the settings of the account. */
const STANDARD_TIERS: ReadonlySet<unknown> = new Set([undefined, null, 'auto', 'default', 'standard']);

/** Returns the price of a call; undefined if it is unknown, as that of another service tier. */
export function priceOfCall(
  priceOf: PriceOf,
  route: ModelRoute,
  target: Target,
  { options }: ChatRequest,
): ModelPrice | undefined {
  return STANDARD_TIERS.has(options?.service_tier) ? priceOf(target, route) : undefined;
}

/** Returns the price that all targets of a route have; undefined if there is no such price. */
export function commonPrice(priceOf: PriceOf, route: ModelRoute): ModelPrice | undefined {
  const [first, ...others] = route.targets.map((target) => priceOf(target, route));
  return others.every((price) => isDeepStrictEqual(price, first)) ? first : undefined;
}

/** Returns the prices of all calls that a question may lead to; undefined if one is unknown. */
export function pricesOfCalls(
  priceOf: PriceOf,
  route: ModelRoute,
  requestOf: (target: Target) => ChatRequest,
): readonly ModelPrice[] | undefined {
  const prices = route.targets.map((target) => priceOfCall(priceOf, route, target, requestOf(target)));
  // A price of input or output alone is no price of an answer.
  const isKnown = (price?: ModelPrice) => price?.input !== undefined && price.output !== undefined;
  return prices.every(isKnown) ? (prices as ModelPrice[]) : undefined;
}

/** Returns the prices of all targets of a route; undefined if one is unknown. */
export function pricesOfTargets(priceOf: PriceOf, route: ModelRoute): readonly ModelPrice[] | undefined {
  return pricesOfCalls(priceOf, route, ({ model }) => ({ model, messages: [] }));
}
