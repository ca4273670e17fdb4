import type { Usage } from '../../providers/types.ts';
import type { ModelPrice, TokenPrices } from '../config/price-file.ts';

/** Calculates what tokens cost. Pure. */

/**
 * All costs are multiples of this part of a USD. A token whose price per million has up to six decimals costs such a
 * multiple. Up to 1,000 USD the noise of binary fractions is far below one half of a unit, so that rounding removes it.
 */
const UNITS_PER_USD = 1e12;
const UNITS_PER_MILLIONTH = 1e6;

/** Cost of a generation in USD. Both parts together are its cost. */
export interface CostUse {
  /** Of tokens that providers have counted. */
  readonly counted: number;
  readonly estimated: number;
}

/**
 * Returns the cost of one call in USD; undefined if a count or a price that it needs is unknown. Cached tokens, tokens
 * written to the cache, and reasoning are parts of input and output, and are charged once.
 */
export function costOf(usage: Usage | undefined, price: ModelPrice | undefined): number | undefined {
  const { inputTokens, outputTokens } = usage ?? {};
  if (price === undefined || inputTokens === undefined || outputTokens === undefined) return undefined;
  const { cachedTokens = 0, cacheWriteTokens = 0, longCacheWriteTokens = 0, reasoningTokens = 0 } = usage ?? {};
  const { input, output, ...others } = pricesFor(inputTokens, price);
  const { cached = input, cacheWrite = input, reasoning = output } = others;
  const { longCacheWrite = cacheWrite } = others;
  const parts: [tokens: number, price: number | undefined][] = [
    [inputTokens - cachedTokens - cacheWriteTokens, input],
    [cachedTokens, cached],
    [cacheWriteTokens - longCacheWriteTokens, cacheWrite],
    [longCacheWriteTokens, longCacheWrite],
    [outputTokens - reasoningTokens, output],
    [reasoningTokens, reasoning],
  ];
  let units = 0;
  for (const [tokens, perMillion] of parts) {
    if (tokens === 0) continue;
    // Less than zero: a part is larger than the whole, so that the counts do not mean what is charged here.
    if (!(tokens > 0) || perMillion === undefined) return undefined;
    units += tokens * perMillion * UNITS_PER_MILLIONTH;
  }
  return toUsd(units);
}

/** Returns the sum of costs; undefined if one of them is unknown. */
export function sumCosts(costs: readonly (number | undefined)[]): number | undefined {
  let units = 0;
  for (const cost of costs) {
    if (cost === undefined) return undefined;
    units += cost * UNITS_PER_USD;
  }
  return toUsd(units);
}

/** Returns the cost of tokens at the highest of these prices; undefined if one is unknown. */
export function highestCost(
  tokens: { readonly input: number; readonly output: number },
  prices: readonly ModelPrice[],
): number | undefined {
  const usage = { inputTokens: tokens.input, outputTokens: tokens.output };
  const costs = prices.map((price) => costOf(usage, price));
  return costs.includes(undefined) ? undefined : Math.max(0, ...(costs as number[]));
}

/** Returns the prices of a call: with much input, some models cost more for all tokens. */
function pricesFor(inputTokens: number, { tiers = [], ...base }: ModelPrice): TokenPrices {
  return tiers.findLast(({ above }) => inputTokens > above) ?? base;
}

/** The quotient is the number next to a decimal of twelve digits, and JSON has no further digits. */
function toUsd(units: number): number | undefined {
  const usd = Math.round(units) / UNITS_PER_USD;
  return Number.isFinite(usd) ? usd : undefined;
}
