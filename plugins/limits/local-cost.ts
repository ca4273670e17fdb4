import { type Costs, type CostUse, KEEP_MS } from './costs.ts';

/** Number of budgets at which those of past periods are removed for the first time. */
const MIN_SWEEP_SIZE = 1_000;

/** The costs of all owners in this process, which is the only one. */
export class LocalCosts implements Costs {
  readonly #byKey = new Map<string, { used: number; readonly ends: number }>();
  #sweepSize = MIN_SWEEP_SIZE;

  async charge({ key, ends }: CostUse, amount: number, estimate: number) {
    const use = this.#byKey.get(key) ?? { used: 0, ends };
    if (estimate > 0 && use.used + Math.min(estimate, amount) > amount) return undefined;
    use.used += estimate;
    this.#byKey.set(key, use);
    if (this.#byKey.size >= this.#sweepSize) this.#sweep();
    return {
      id: '',
      settle(cost: number) {
        use.used += cost - estimate;
      },
      handOver() {},
    };
  }

  /** Without Redis no replica takes a generation over. */
  adopt() {
    return { id: '', settle() {}, handOver() {} };
  }

  #sweep(): void {
    const now = Date.now();
    for (const [key, { ends }] of this.#byKey) if (ends + KEEP_MS < now) this.#byKey.delete(key);
    this.#sweepSize = Math.max(MIN_SWEEP_SIZE, this.#byKey.size * 2);
  }
}
