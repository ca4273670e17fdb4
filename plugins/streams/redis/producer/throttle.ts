import type { Clock } from '../../../clock.ts';
import type { Commit, CommitGroup } from './commit-group.ts';

/** Runs a function immediately after a pause, and then at most once in the interval of the group. */
export class Throttle implements Commit {
  dueAt = Number.NEGATIVE_INFINITY;
  readonly run: () => void;
  readonly #clock: Clock;
  readonly #group: CommitGroup;
  #lastRun = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, group: CommitGroup, fn: () => void) {
    this.#clock = clock;
    this.#group = group;
    this.run = () => {
      this.#lastRun = clock.now();
      fn();
    };
  }

  /** Counts a part, for the interval of the group. */
  countPart(): void {
    this.#group.countPart(this.#clock.now());
  }

  /** Runs now if it is due or urgent, else when it is due. Repeated calls before that run it once. */
  schedule(isUrgent: boolean): void {
    this.dueAt = this.#lastRun + this.#group.intervalMs;
    if (isUrgent || this.dueAt <= this.#clock.now()) {
      this.cancel();
      this.run();
    } else this.#group.add(this);
  }

  /** Cancels a scheduled run. */
  cancel(): void {
    this.#group.delete(this);
  }
}
