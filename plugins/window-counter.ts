import { RecentMap } from './recent-map.ts';

export interface WindowCount {
  /** Events of the key in its window. */
  readonly count: number;
  /** Milliseconds until the window ends. */
  readonly msBeforeNext: number;
}

interface Window {
  count: number;
  ends: number;
}

/**
 * Counts events by key in this process. The window of a key begins with its first event. The limit is the caller's, so
 * a changed limit finds what was used. Beyond `maxKeys` the keys that were used longest ago start again at 0.
 */
export class WindowCounter {
  readonly #windowMs: number;
  readonly #windows: RecentMap<Window>;
  #agesAt = 0;
  #ages = 0;

  constructor(windowMs: number, maxKeys: number) {
    this.#windowMs = windowMs;
    this.#windows = new RecentMap(maxKeys);
  }

  /** Number of stored windows: at most twice `maxKeys`. */
  get size(): number {
    return this.#windows.size;
  }

  /** Adds one event. */
  add(key: string): WindowCount {
    const now = Date.now();
    this.#forgetExpired(now);
    let window = this.#windows.get(key);
    if (window === undefined || now >= window.ends) {
      window = { count: 0, ends: now + this.#windowMs };
      this.#windows.set(key, window);
    }
    // After a clock was set back, a window must not last longer.
    window.ends = Math.min(window.ends, now + this.#windowMs);
    window.count += 1;
    return { count: window.count, msBeforeNext: window.ends - now };
  }

  /** Takes back one event of the current window. */
  takeBack(key: string): void {
    const window = this.#windows.get(key);
    if (window !== undefined && window.count > 0) window.count -= 1;
  }

  /**
   * Forgets windows without an event for a whole window, so that memory shrinks after many keys. If windows were
   * forgotten because of their number, the time begins again: those that are left may be in use.
   */
  #forgetExpired(now: number): void {
    if (this.#windows.ages === this.#ages) {
      if (now < this.#agesAt && this.#agesAt <= now + this.#windowMs) return;
      this.#windows.age();
    }
    this.#ages = this.#windows.ages;
    this.#agesAt = now + this.#windowMs;
  }
}
