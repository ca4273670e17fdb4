import type { Usage } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { Prompt } from '../llm/client.ts';
import { estimateTokens, sumOf, type TokenEstimate, type TokenUse, usedTokens } from './tokens.ts';

/** The slot and the tokens that one generation has reserved from its owner's limits. */
export interface Reservation {
  readonly estimate: TokenEstimate;
  /**
   * Releases the slot and charges the tokens that were used instead of the estimate. Returns them, also of an owner
   * without a limit. Call once.
   * @param usage tokens as the provider counted them; without a count the estimate is charged, or more if the answer is longer
   * @param characters length of the answer
   */
  settle(usage: Usage | undefined, characters: number): TokenUse;
}

/** Ends what a generation holds of one limit: charges the tokens that it has used, and releases the rest. */
export type Hold = (tokens: number) => void;

/**
 * Reserves something for a generation from one limit of one owner, which is called `payer` there. Resolves with
 * undefined if it has no such limit. @throws 429 with `retryAfterMs`
 */
export type Take = (identity: Identity, payer: string, estimate: TokenEstimate) => Promise<Hold | undefined>;

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
 * @throws 429 with `retryAfterMs`, and what `confirm` throws
 */
export async function reserve(
  takes: readonly Take[],
  identity: Identity,
  prompt: Prompt,
  confirm: () => Promise<void>,
): Promise<Reservation> {
  const payers = payersOf(identity);
  // A question that is larger than a limit is allowed and uses all tokens of the period.
  const estimate = estimateTokens(prompt, smallestLimit(payers));
  const holds: Hold[] = [];
  try {
    for (const payer of payers) {
      for (const take of takes) {
        const hold = await take(payer, payerOf(payer), estimate);
        if (hold !== undefined) holds.push(hold);
      }
    }
    await confirm();
  } catch (error) {
    for (const hold of holds) hold(0);
    throw error;
  }
  return {
    estimate,
    settle(usage, characters) {
      const used = usedTokens(usage, characters, estimate);
      for (const hold of holds) hold(sumOf(used));
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
