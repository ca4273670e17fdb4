import type { Clock } from '../../../clock.ts';

/** A write of one log that waits for its time. */
export interface Commit {
  /** Time on the clock in milliseconds. */
  readonly dueAt: number;
  /** Must not throw. */
  run(): void;
}

export interface CommitGroupOptions {
  readonly clock: Clock;
  /** Least milliseconds between two writes of a log. */
  readonly flushMs: number;
  /** Calls `send`, whose commands then leave in one packet. */
  together(send: () => void): void;
}

/** Longest interval between two writes of a log, unless `flushMs` is longer. */
const MAX_INTERVAL_MS = 50;
/** Parts of all logs in a second up to which each log may write every `flushMs`. The interval rises with their number. */
const PARTS_PER_SECOND = 2_000;
/** Time in which parts are counted. */
const WINDOW_MS = 1_000;
/** Share of the interval by which a busy process writes early, together with others. */
const EARLY = 1 / 4;

/**
 * Lets the logs of this process write to Redis together. While few parts arrive, a part that comes after a pause is
 * written at once. The more arrive, the longer each log collects, and logs that are due at about the same time write in
 * one turn: Redis then has fewer commands, and reads many of them at once.
 */
export class CommitGroup {
  readonly #options: CommitGroupOptions;
  readonly #waiting = new Set<Commit>();
  #cancelTick = () => {};
  #tickAt = Number.POSITIVE_INFINITY;
  #windowStart: number;
  #parts = 0;
  #intervalMs: number;

  constructor(options: CommitGroupOptions) {
    this.#options = options;
    this.#intervalMs = options.flushMs;
    this.#windowStart = options.clock.now();
  }

  /** Least milliseconds between two writes of a log now. */
  get intervalMs(): number {
    return this.#intervalMs;
  }

  /** Counts a part. */
  countPart(now: number): void {
    const elapsedMs = now - this.#windowStart;
    if (elapsedMs >= WINDOW_MS) {
      const { flushMs } = this.#options;
      const rate = (this.#parts * 1_000) / elapsedMs;
      this.#intervalMs = Math.max(flushMs, Math.min(MAX_INTERVAL_MS, (flushMs * rate) / PARTS_PER_SECOND));
      this.#windowStart = now;
      this.#parts = 0;
    }
    this.#parts += 1;
  }

  /** Runs a commit when it is due, or somewhat earlier with others. Does nothing for one that waits already. */
  add(commit: Commit): void {
    this.#waiting.add(commit);
    this.#schedule(commit.dueAt);
  }

  delete(commit: Commit): void {
    this.#waiting.delete(commit);
    if (this.#waiting.size === 0) this.#cancel();
  }

  #schedule(at: number): void {
    if (at >= this.#tickAt) return;
    const { clock } = this.#options;
    this.#cancelTick();
    this.#tickAt = at;
    this.#cancelTick = clock.after(Math.max(0, at - clock.now()), this.#tick);
  }

  #cancel(): void {
    this.#cancelTick();
    this.#tickAt = Number.POSITIVE_INFINITY;
  }

  readonly #tick = (): void => {
    this.#tickAt = Number.POSITIVE_INFINITY;
    const { clock, flushMs, together } = this.#options;
    const earlyMs = this.#intervalMs > flushMs ? this.#intervalMs * EARLY : 0;
    const until = clock.now() + earlyMs;
    const due: Commit[] = [];
    let next = Number.POSITIVE_INFINITY;
    for (const commit of this.#waiting) {
      if (commit.dueAt <= until) due.push(commit);
      else next = Math.min(next, commit.dueAt);
    }
    for (const commit of due) this.#waiting.delete(commit);
    if (next < Number.POSITIVE_INFINITY) this.#schedule(next);
    together(() => {
      for (const commit of due) commit.run();
    });
  };
}
