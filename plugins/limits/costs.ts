/** The costs of owners in calendar periods, in this process or in Redis. All are billionths of a USD. */

export interface BudgetSettings {
  readonly period: 'day' | 'month';
  /** USD. */
  readonly amount: number;
}

/** The period of one owner to which a cost is charged. */
export interface CostUse {
  /** Period and owner. */
  readonly key: string;
  /** Milliseconds since 1970 at which the period ends. */
  readonly ends: number;
}

/** A charge, for another replica that ends the generation. Stored with its stream. */
export interface ChargeRef extends CostUse {
  readonly id: string;
  readonly estimate: number;
}

/** Charge of a running generation. Call one of its functions, once. */
export interface OpenCharge {
  readonly id: string;
  /** Replaces the estimate by the cost. */
  settle(cost: number): void;
  /** Leaves the end to another replica. */
  handOver(): void;
}

/** The costs of all owners. */
export interface Costs {
  /** Charges an estimate if it fits into the amount. Resolves with undefined if it does not. */
  charge(use: CostUse, amount: number, estimate: number): Promise<OpenCharge | undefined>;
  /** Returns a charge of another replica. */
  adopt(charge: ChargeRef): OpenCharge;
}

/** Time after its period for which a cost is kept, for the ends of generations that began in it. */
export const KEEP_MS = 86_400_000;

/** The unit of all costs is this part of a USD. */
export const UNITS_PER_USD = 1e9;
