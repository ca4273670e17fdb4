import { ANONYMOUS, type Identity } from '../auth/identity.ts';

/** Outcome of taking from a budget: `total` and `owner` name the bound that was reached. */
export type Taken = 'taken' | 'total' | 'owner';

/** The most that one owner may hold of a budget. */
export interface Share {
  readonly owner: string;
  readonly bound: number;
}

export interface MemoryBounds {
  readonly total: number;
  /** Share of one owner. */
  readonly perOwner: number;
}

/**
 * Bounds what is held at the same time, over all and for each owner. An owner that holds nothing may take any amount, so
 * that a bound below the largest single amount refuses nobody for ever.
 */
export class MemoryBudget {
  readonly #total: number;
  readonly #byOwner = new Map<string, number>();
  #used = 0;

  /** @param total bound of all owners together */
  constructor(total: number) {
    this.#total = total;
  }

  get used(): number {
    return this.#used;
  }

  /** @param shares of the caller; none for one that is not told apart */
  take(shares: readonly Share[], amount: number): Taken {
    if (this.#used > 0 && this.#used + amount > this.#total) return 'total';
    for (const { owner, bound } of shares) {
      const used = this.#byOwner.get(owner) ?? 0;
      if (used > 0 && used + amount > bound) return 'owner';
    }
    for (const { owner } of shares) this.#byOwner.set(owner, (this.#byOwner.get(owner) ?? 0) + amount);
    this.#used += amount;
    return 'taken';
  }

  give(shares: readonly Share[], amount: number): void {
    this.#used -= amount;
    for (const { owner } of shares) {
      const rest = (this.#byOwner.get(owner) ?? 0) - amount;
      if (rest > 0) this.#byOwner.set(owner, rest);
      else this.#byOwner.delete(owner);
    }
  }
}

/** Part of its key's share that one visitor may hold, so that it leaves some to the others. */
const VISITOR_PART = 1 / 4;

/** Returns the shares of a caller. Without keys, all callers are one owner, which has none. */
export function sharesOf({ owner, holder }: Identity, { perOwner }: MemoryBounds): Share[] {
  if (owner === ANONYMOUS.owner) return [];
  if (holder === undefined) return [{ owner, bound: perOwner }];
  return [
    { owner, bound: Math.ceil(perOwner * VISITOR_PART) },
    { owner: holder.owner, bound: perOwner },
  ];
}

/** The bytes of one body, and of the prompt in it. Held until every holder has released them. */
export class BodyClaim {
  readonly #budget: MemoryBudget;
  readonly #shares: readonly Share[];
  #bytes = 0;
  #holders = 0;

  constructor(budget: MemoryBudget, shares: readonly Share[]) {
    this.#budget = budget;
    this.#shares = shares;
  }

  grow(bytes: number): Taken {
    const taken = this.#budget.take(this.#shares, bytes);
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
      this.#budget.give(this.#shares, this.#bytes);
      this.#bytes = 0;
    };
  }
}
