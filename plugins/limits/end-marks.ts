import type { Clock } from '../clock.ts';

/**
 * Marks are kept for this time to twice this time. An end is charged some milliseconds before its stream has ended in
 * Redis. If this replica dies in between, another one takes the stream over within seconds and charges it again: the
 * mark shows that it is charged.
 */
const KEEP_MS = 5_000;

/** Marks that Redis keeps of ended generations, and that are not needed any more after a while. */
export class EndMarks {
  readonly #clock: Clock;
  #young = new Map<string, string[]>();
  #old = new Map<string, string[]>();
  #turnedAt: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#turnedAt = clock.now();
  }

  /** Adds the mark of a generation in the hash `key`. */
  add(key: string, id: string): void {
    const ids = this.#young.get(key);
    if (ids === undefined) this.#young.set(key, [id]);
    else ids.push(id);
  }

  /** Returns the marks to delete, by hash. Each is returned once. */
  takeDue(): ReadonlyMap<string, readonly string[]> {
    const now = this.#clock.now();
    if (now - this.#turnedAt < KEEP_MS) return NONE;
    this.#turnedAt = now;
    const due = this.#old;
    this.#old = this.#young;
    this.#young = new Map();
    return due;
  }
}

const NONE: ReadonlyMap<string, readonly string[]> = new Map();
