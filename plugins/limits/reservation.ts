import type { Usage } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { ModelPrice } from '../config/price-file.ts';
import type { Prompt } from '../llm/client.ts';
import { highestCost } from '../prices/cost.ts';
import type { ChargeRef } from './costs.ts';
import { estimateTokens, sumOf, type TokenEstimate, type Tokens, type TokenUse, usedTokens } from './tokens.ts';

/** Returns the cost of tokens in USD; undefined if it is unknown. */
export type CostOf = (used: TokenUse) => number | undefined;

/** Charges of the beginning of a generation, as another replica needs them to end it. */
export interface Charged {
  readonly estimate: TokenEstimate;
  /** Charges of budgets. */
  readonly charges?: readonly ChargeRef[] | undefined;
}

/** The slot, the tokens and the cost that one generation has reserved from its owner's limits. */
export interface Reservation extends Charged {
  /**
   * Releases the slot and charges what was used instead of the estimate. Returns the used tokens, also of an owner
   * without a limit. Call once.
   * @param usage tokens as the provider counted them; without a count the estimate is charged, or more if the answer is longer
   * @param characters length of the answer
   * @param costOf returns the cost for budgets. If that is unknown, the highest possible one is charged, at least the
   *   estimate. Absent if another replica ends the generation
   */
  settle(usage: Usage | undefined, characters: number, costOf?: CostOf): TokenUse;
}

/** Tokens and cost that a generation has used. */
export interface Spent {
  readonly tokens: number;
  /** USD; undefined if another replica ends the generation. */
  readonly cost: number | undefined;
}

/** Part of one limit that a generation holds. */
export interface Hold {
  /** Charges what was used, and releases the rest. */
  settle(spent: Spent): void;
  /** The charge of a budget. */
  readonly ref?: ChargeRef;
}

/** Tokens and cost that a generation is expected to use. */
export interface Expected {
  readonly tokens: TokenEstimate;
  /** USD; undefined if no payer has a budget. */
  readonly cost: number | undefined;
}

/**
 * Reserves something for a generation from one limit of one owner, which is called `payer` there. Resolves with
 * undefined if it has no such limit. @throws 429 with `retryAfterMs`
 */
export type Take = (identity: Identity, payer: string, expected: Expected) => Promise<Hold | undefined>;

/** Returns the owners whose limits a caller uses up: a visitor first, so that what it is refused costs its key nothing. */
export function payersOf(identity: Identity): Identity[] {
  return identity.holder === undefined ? [identity] : [identity, identity.holder];
}

/** Returns the name under which the limits of a caller are counted. */
export function payerOf({ owner, payer = owner }: Identity): string {
  return payer;
}

/**
 * Reserves from all limits of all payers of a caller, or from none.
 * @param confirm called last; nothing is reserved if it rejects
 * @param prices of all calls that the prompt may lead to; required for a caller with a budget
 * @throws 429 with `retryAfterMs`, and what `confirm` throws
 */
export async function reserve(
  takes: readonly Take[],
  identity: Identity,
  prompt: Prompt,
  confirm: () => Promise<void>,
  prices: readonly ModelPrice[] = [],
): Promise<Reservation> {
  const payers = payersOf(identity);
  // A question that is larger than a limit is allowed and uses all tokens of the period.
  const estimate = estimateTokens(prompt, smallestLimit(payers));
  const { prompt: input, total } = estimateTokens(prompt);
  const cost = prices.length === 0 ? undefined : highestCost({ input, output: total - input }, prices);
  const holds: Hold[] = [];
  try {
    for (const payer of payers) {
      for (const take of takes) {
        const hold = await take(payer, payerOf(payer), { tokens: estimate, cost });
        if (hold !== undefined) holds.push(hold);
      }
    }
    await confirm();
  } catch (error) {
    for (const hold of holds) hold.settle({ tokens: 0, cost: 0 });
    throw error;
  }
  return reservationOf(estimate, holds, prices, cost);
}

/**
 * Returns what `holds` hold.
 * @param cost expected by `prices`, in USD
 */
export function reservationOf(
  estimate: TokenEstimate,
  holds: readonly Hold[],
  prices: readonly ModelPrice[],
  cost = 0,
): Reservation {
  const charges = holds.flatMap(({ ref }) => ref ?? []);
  const highestOf = ({ counted, estimated }: TokenUse) => {
    const tokens: Tokens = { input: counted.input + estimated.input, output: counted.output + estimated.output };
    return Math.max(cost, highestCost(tokens, prices) ?? 0);
  };
  return {
    estimate,
    ...(charges.length > 0 && { charges }),
    settle(usage, characters, costOf) {
      const used = usedTokens(usage, characters, estimate);
      const spent: Spent = { tokens: sumOf(used), cost: costOf && (costOf(used) ?? highestOf(used)) };
      for (const hold of holds) hold.settle(spent);
      return used;
    },
  };
}

function smallestLimit(payers: readonly Identity[]): number {
  const limits = payers.flatMap(({ tokensPerMinute = Infinity, tokensPerDay = Infinity }) => [
    tokensPerMinute,
    tokensPerDay,
  ]);
  return Math.min(...limits);
}
