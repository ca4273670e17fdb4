import type { Period } from './period.ts';

interface Use {
  /** Used tokens that are not paid off. */
  readonly used: number;
  /** End of the current period. */
  readonly ends: number;
  readonly limit: number;
  /** Number of the time since everything was paid off last. */
  readonly series: number;
}

/** Number of owners at which those without a debt are removed for the first time. */
const MIN_SWEEP_SIZE = 1_000;

let lastSeries = 0;

/** The use of all owners in this process. Does what the scripts for Redis do. */
export class LocalUse {
  readonly #byOwner = new Map<string, Use>();
  readonly #periodMs: number;
  #sweepSize = MIN_SWEEP_SIZE;

  constructor({ ms }: Period) {
    this.#periodMs = ms;
  }

  /** Charges tokens if they fit. Returns 0, or the milliseconds until they fit, and the series for `adjust`. */
  charge(owner: string, limit: number, tokens: number): { retryAfterMs: number; series: number } {
    const now = Date.now();
    const use = this.#currentUse(this.#byOwner.get(owner), limit, now);
    const excess = use.used + tokens - limit;
    this.#set(owner, excess > 0 ? use : { ...use, used: use.used + tokens }, now);
    const retryAfterMs = excess > 0 ? use.ends - now + (Math.ceil(excess / limit) - 1) * this.#periodMs : 0;
    return { retryAfterMs, series: use.series };
  }

  /**
   * Adds tokens, even beyond the limit, or gives negative ones back.
   * @param series of the charge. What is paid off since then is not given back; nothing is if it is undefined
   */
  adjust(owner: string, limit: number, tokens: number, series?: number): void {
    const now = Date.now();
    const use = this.#currentUse(this.#byOwner.get(owner), limit, now);
    if (tokens > 0 || use.series === series) {
      this.#set(owner, { ...use, used: Math.max(0, use.used + tokens) }, now);
    }
  }

  #set(owner: string, use: Use, now: number): void {
    this.#byOwner.set(owner, use);
    if (this.#byOwner.size >= this.#sweepSize) this.#sweep(now);
  }

  /** Removes owners whose use is paid off. */
  #sweep(now: number): void {
    for (const [owner, use] of this.#byOwner) {
      if (this.#currentUse(use, use.limit, now).used === 0) this.#byOwner.delete(owner);
    }
    this.#sweepSize = Math.max(MIN_SWEEP_SIZE, this.#byOwner.size * 2);
  }

  #currentUse(stored: Use | undefined, limit: number, now: number): Use {
    if (stored === undefined) return { used: 0, ends: now + this.#periodMs, limit, series: ++lastSeries };
    // After a clock was set back, a period must not last for longer than it is.
    const ends = Math.min(stored.ends, now + this.#periodMs);
    if (now < ends) return { ...stored, ends, limit };
    const periods = Math.floor((now - ends) / this.#periodMs) + 1;
    const used = Math.max(0, stored.used - periods * limit);
    return { used, ends: ends + periods * this.#periodMs, limit, series: used === 0 ? ++lastSeries : stored.series };
  }
}
