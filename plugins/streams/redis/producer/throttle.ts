import type { Clock } from '../../../clock.ts';

/** Lets something happen at once after a pause, and then no more often than every `ms`. */
export class Throttle {
  readonly #clock: Clock;
  readonly #ms: number;
  #last = Number.NEGATIVE_INFINITY;
  #cancel: (() => void) | undefined;

  constructor(clock: Clock, ms: number) {
    this.#clock = clock;
    this.#ms = ms;
  }

  /** Calls `fn` in this frame if it is due, else when it is. Asked again before that, it stays one call. */
  schedule(fn: () => void, isUrgent: boolean): void {
    const pause = this.#last + this.#ms - this.#clock.now();
    if (pause > 0 && !isUrgent) {
      this.#cancel ??= this.#clock.after(pause, () => this.#run(fn));
      return;
    }
    this.#run(fn);
  }

  /** Forgets what waits. */
  cancel(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #run(fn: () => void): void {
    this.cancel();
    this.#last = this.#clock.now();
    fn();
  }
}
