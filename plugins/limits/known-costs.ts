import type { CostUse } from './costs.ts';

/** Last reply of Redis about the budget of one owner. */
export interface KnownCost {
  /** Tells the data in Redis apart from that before Redis has lost it. */
  readonly since: string;
  /** Cost of ended generations. */
  readonly ended: number;
  /** Cost of all generations. */
  readonly used: number;
  /** End of the period. */
  readonly ends: number;
}

/** Budgets that are remembered. Beyond them, the one that was used longest ago is forgotten. */
const MAX_KNOWN = 10_000;

/** Remembers budgets: for the time in which Redis is unavailable, and to restore what Redis has lost. */
export class KnownCosts {
  readonly #known = new Map<string, KnownCost>();
  readonly #unconfirmed = new Map<string, number>();

  find(key: string): KnownCost | undefined {
    return this.#known.get(key);
  }

  set(key: string, cost: KnownCost): void {
    this.#known.delete(key);
    const [oldest] = this.#known.size >= MAX_KNOWN ? this.#known.keys() : [];
    if (oldest !== undefined) this.#known.delete(oldest);
    this.#known.set(key, cost);
  }

  /** Returns the budgets whose period has not ended. */
  current(now: number): CostUse[] {
    return [...this.#known].flatMap(([key, { ends }]) => (ends > now ? [{ key, ends }] : []));
  }

  /** Returns what generations of this replica cost beyond what Redis has confirmed. */
  unconfirmed(key: string): number {
    return this.#unconfirmed.get(key) ?? 0;
  }

  addUnconfirmed(key: string, cost: number): void {
    const sum = this.unconfirmed(key) + cost;
    if (sum === 0) this.#unconfirmed.delete(key);
    else this.#unconfirmed.set(key, sum);
  }
}
