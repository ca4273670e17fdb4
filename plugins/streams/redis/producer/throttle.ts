import type { Clock } from '../../../clock.ts';

/** Runs a function immediately after a pause, and then at most once every `ms` milliseconds. */
export class Throttle {
  readonly #clock: Clock;
  readonly #ms: number;
  #lastRun = Number.NEGATIVE_INFINITY;
  #cancelTimer: (() => void) | undefined;

  constructor(clock: Clock, ms: number) {
    this.#clock = clock;
    this.#ms = ms;
  }

  /** Runs `fn` now if it is due or urgent, else when it is due. Repeated calls before that run it once. */
  schedule(fn: () => void, isUrgent: boolean): void {
    const waitMs = this.#lastRun + this.#ms - this.#clock.now();
    if (waitMs > 0 && !isUrgent) {
      this.#cancelTimer ??= this.#clock.after(waitMs, () => this.#run(fn));
      return;
    }
    this.#run(fn);
  }

  /** Cancels a scheduled run. */
  cancel(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  #run(fn: () => void): void {
    this.cancel();
    this.#lastRun = this.#clock.now();
    fn();
  }
}
