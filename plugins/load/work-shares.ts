/** Shares of the work of this process, by owner. */

export interface WorkShares {
  /** Adds work of an owner, in milliseconds of a core. */
  add(owner: string, ms: number): void;
  /**
   * Returns true if a further question of this owner should be refused while the process is overloaded: the owner is
   * among those whose work has to go until the process is no longer overloaded, the largest first.
   */
  isHeavy(owner: string): boolean;
}

/** Time after which work counts half. */
const HALF_LIFE_MS = 5_000;
/** Least time between two computations, which cost as much as there are owners. */
const REFRESH_MS = 100;
/** Share of the work that has to go. */
const SHED_SHARE = 0.25;
/** Work of the question that is asked, so that owners that have not asked yet are not admitted without end. */
const QUESTION_MS = 10;
/** Work that no longer counts. */
const NEGLIGIBLE_MS = 0.1;
/** Bound of the owners that are told apart. All others count as one. */
const MAX_OWNERS = 10_000;
const OTHERS = '';

export function createWorkShares(now: () => number): WorkShares {
  const amounts = new Map<string, number>();
  let decayedAt = now();
  let level = 0;
  let leveledAt = Number.NEGATIVE_INFINITY;

  function decay(): void {
    const elapsedMs = now() - decayedAt;
    if (elapsedMs < REFRESH_MS) return;
    decayedAt += elapsedMs;
    const factor = 0.5 ** (elapsedMs / HALF_LIFE_MS);
    for (const [owner, ms] of amounts) {
      if (ms * factor < NEGLIGIBLE_MS) amounts.delete(owner);
      else amounts.set(owner, ms * factor);
    }
  }

  const keyOf = (owner: string) => (amounts.has(owner) || amounts.size < MAX_OWNERS ? owner : OTHERS);

  return {
    add(owner, ms) {
      decay();
      const key = keyOf(owner);
      amounts.set(key, (amounts.get(key) ?? 0) + ms);
    },
    isHeavy(owner) {
      decay();
      if (now() - leveledAt >= REFRESH_MS) {
        leveledAt = now();
        level = levelOf([...amounts.values()]);
      }
      return (amounts.get(keyOf(owner)) ?? 0) + QUESTION_MS > level;
    },
  };
}

/** Returns the amount to which all larger amounts must be cut, so that the shed share of their sum is gone. */
function levelOf(amounts: number[]): number {
  amounts.sort((a, b) => b - a);
  const excess = amounts.reduce((sum, one) => sum + one, 0) * SHED_SHARE;
  let sum = 0;
  for (const [i, amount] of amounts.entries()) {
    sum += amount;
    const level = (sum - excess) / (i + 1);
    if (level >= (amounts[i + 1] ?? 0)) return level;
  }
  return 0;
}
