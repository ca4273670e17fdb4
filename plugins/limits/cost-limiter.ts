import type { Cluster } from '../redis/index.ts';
import { calendarPeriod } from './calendar.ts';
import {
  type BudgetSettings,
  type ChargeRef,
  type Costs,
  type CostUse,
  type OpenCharge,
  UNITS_PER_USD,
} from './costs.ts';
import { LocalCosts } from './local-cost.ts';
import { createSharedCosts, type SharedCostsOptions } from './shared-cost.ts';

/** Limits what the answers of an owner cost in a calendar period, across all replicas. */

export interface CostCharge {
  readonly ref: ChargeRef;
  /** @param usd undefined if another replica ends the generation */
  settle(usd: number | undefined): void;
}

export interface CostLimiter {
  /** Charges an estimate in USD. Resolves with the time of the renewal, in milliseconds since 1970, if it does not fit. */
  charge(owner: string, budget: BudgetSettings, usd: number): Promise<CostCharge | { readonly renewsAt: number }>;
  /** Returns a charge of another replica, whose generation this one ends. */
  adopt(ref: ChargeRef): CostCharge;
}

export interface CostLimiterOptions extends SharedCostsOptions {
  readonly cluster: Cluster | undefined;
}

/** Costs are multiples of this part of a USD. Rounding to it first removes the noise of binary fractions. */
const FINEST_PER_USD = 1e12;
/** One answer counts as the largest budget at most, so that sums stay exact. */
const MAX_UNITS = 1_000_000 * UNITS_PER_USD;

export function createCostLimiter({ cluster, ...options }: CostLimiterOptions): CostLimiter {
  const costs: Costs = cluster ? createSharedCosts(cluster, options) : new LocalCosts();

  const chargeOf = (ref: ChargeRef, { settle, handOver }: OpenCharge): CostCharge => ({
    ref,
    settle: (usd) => (usd === undefined ? handOver() : settle(toUnits(usd))),
  });

  return {
    async charge(owner, { period: kind, amount }, usd) {
      const period = calendarPeriod(kind, Date.now());
      const use: CostUse = { key: `${period.name}:${owner}`, ends: period.ends };
      const estimate = toUnits(usd);
      const open = await costs.charge(use, Math.max(1, Math.round(amount * UNITS_PER_USD)), estimate);
      return open ? chargeOf({ ...use, id: open.id, estimate }, open) : { renewsAt: period.ends };
    },
    adopt: (ref) => chargeOf(ref, costs.adopt(ref)),
  };
}

/** Rounds up: many small costs are not free together. */
function toUnits(usd: number): number {
  const units = Math.ceil(Math.round(usd * FINEST_PER_USD) / (FINEST_PER_USD / UNITS_PER_USD));
  return Math.min(MAX_UNITS, Math.max(0, units));
}
