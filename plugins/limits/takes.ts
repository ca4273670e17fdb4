import type { Identity } from '../auth/identity.ts';
import type { Clock } from '../clock.ts';
import type { Cluster } from '../redis/index.ts';
import { createConcurrencyLimiter } from './concurrency.ts';
import { type CostCharge, createCostLimiter } from './cost-limiter.ts';
import type { ChargeRef } from './costs.ts';
import { DAY, MINUTE, type Period } from './period.ts';
import type { Hold, Take } from './reservation.ts';
import { createTokenLimiter } from './token-limiter.ts';

/** Reserves a generation from each of the limits of one owner. */

export interface TakesOptions {
  readonly clock: Clock;
  readonly cluster: Cluster | undefined;
  readonly expectedReplicas: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
  /** Creates a 429 and counts it. */
  refused(kind: string, message: string, retryAfterMs: number): Error;
}

/** `Retry-After` in milliseconds if the concurrent answers of an owner are at the limit. */
const CONCURRENCY_RETRY_MS = 2_000;

/** Bounds of `Retry-After` in milliseconds. Pages pass it to `setTimeout`, which takes 31 bits. */
const RENEWAL_RETRY_MS = { min: 1_000, max: 2_147_483_000 };

const MESSAGES = {
  concurrent: 'Too many of your answers are running; retry when one has ended.',
  tokens: 'Too many tokens in this minute; retry later.',
  tokens_per_day: 'Too many tokens in 24 hours; retry later.',
};

export function createTakes({ clock, cluster, expectedReplicas, onDegraded, refused }: TakesOptions): {
  takes: readonly Take[];
  /** Returns the hold of a charge of another replica. */
  adopt(charge: ChargeRef): Hold;
} {
  const limited = (kind: keyof typeof MESSAGES, retryAfterMs: number) => refused(kind, MESSAGES[kind], retryAfterMs);
  const concurrency = createConcurrencyLimiter(cluster, expectedReplicas, onDegraded);
  const costs = createCostLimiter({ clock, cluster, expectedReplicas, onDegraded });

  const takeSlot: Take = async ({ maxConcurrent }, payer) => {
    if (maxConcurrent === undefined) return undefined;
    if (!(await concurrency.reserve(payer, maxConcurrent))) throw limited('concurrent', CONCURRENCY_RETRY_MS);
    return { settle: () => concurrency.release(payer) };
  };

  /** Returns what reserves the estimated tokens of a generation for a period. */
  const takeTokens = (
    period: Period,
    limitOf: (identity: Identity) => number | undefined,
    kind: keyof typeof MESSAGES,
  ): Take => {
    const limiter = createTokenLimiter({ period, cluster, expectedReplicas, onDegraded });
    return async (identity, payer, { tokens: { total } }) => {
      const limit = limitOf(identity);
      if (limit === undefined) return undefined;
      const charge = await limiter.charge(payer, limit, total);
      if (!charge.passed) throw limited(kind, charge.retryAfterMs);
      return { settle: ({ tokens }) => charge.adjust(tokens - total) };
    };
  };

  const toHold = ({ ref, settle }: CostCharge): Hold => ({ ref, settle: ({ cost }) => settle(cost) });
  const takeCost: Take = async ({ budget }, payer, { cost }) => {
    if (budget === undefined) return undefined;
    if (cost === undefined) throw new Error('a caller with a budget asks a model without a price');
    const charge = await costs.charge(payer, budget, cost);
    if ('ref' in charge) return toHold(charge);
    const { renewsAt } = charge;
    const time = new Date(renewsAt).toISOString().replace('.000Z', 'Z');
    const message = `The budget of this ${budget.period} is used up; it is renewed at ${time}.`;
    const { min, max } = RENEWAL_RETRY_MS;
    throw refused('budget', message, Math.min(max, Math.max(min, renewsAt - Date.now())));
  };

  return {
    takes: [
      takeSlot,
      takeTokens(MINUTE, ({ tokensPerMinute }) => tokensPerMinute, 'tokens'),
      takeTokens(DAY, ({ tokensPerDay }) => tokensPerDay, 'tokens_per_day'),
      takeCost,
    ],
    adopt: (charge) => toHold(costs.adopt(charge)),
  };
}
