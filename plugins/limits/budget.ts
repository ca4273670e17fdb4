/** Outcome of taking from a budget: `total` and `owner` name the bound that was reached. */
export type Taken = 'taken' | 'total' | 'owner';

export interface BudgetBounds {
  readonly total: number;
  /** Share of one owner. */
  readonly perOwner: number;
}

/**
 * Bounds what is held at the same time, over all and for each owner. An owner that holds nothing may take any amount, so
 * that a bound below the largest single amount refuses nobody for ever.
 */
export class Budget {
  readonly #bounds: BudgetBounds;
  readonly #byOwner = new Map<string, number>();
  #used = 0;

  constructor(bounds: BudgetBounds) {
    this.#bounds = bounds;
  }

  get used(): number {
    return this.#used;
  }

  /** @param owner undefined for a caller without a share of its own */
  take(owner: string | undefined, amount: number): Taken {
    if (this.#used > 0 && this.#used + amount > this.#bounds.total) return 'total';
    if (owner !== undefined) {
      const used = this.#byOwner.get(owner) ?? 0;
      if (used > 0 && used + amount > this.#bounds.perOwner) return 'owner';
      this.#byOwner.set(owner, used + amount);
    }
    this.#used += amount;
    return 'taken';
  }

  give(owner: string | undefined, amount: number): void {
    this.#used -= amount;
    if (owner === undefined) return;
    const rest = (this.#byOwner.get(owner) ?? 0) - amount;
    if (rest > 0) this.#byOwner.set(owner, rest);
    else this.#byOwner.delete(owner);
  }
}

/** The bytes of one body, and of the prompt in it. Held until every holder has released them. */
export class BodyClaim {
  readonly #budget: Budget;
  readonly #owner: string | undefined;
  #bytes = 0;
  #holders = 0;

  constructor(budget: Budget, owner: string | undefined) {
    this.#budget = budget;
    this.#owner = owner;
  }

  grow(bytes: number): Taken {
    const taken = this.#budget.take(this.#owner, bytes);
    if (taken === 'taken') this.#bytes += bytes;
    return taken;
  }

  /** Adds a holder. The returned function releases it; idempotent. */
  hold(): () => void {
    this.#holders += 1;
    let isHolding = true;
    return () => {
      if (!isHolding) return;
      isHolding = false;
      this.#holders -= 1;
      if (this.#holders > 0) return;
      this.#budget.give(this.#owner, this.#bytes);
      this.#bytes = 0;
    };
  }
}
