/**
 * Renewals of the lease (one a second) after which marks are deleted; they are kept for this time to twice this time.
 * An end is charged some milliseconds before its stream has ended in Redis. If this replica dies in between, another one
 * takes the stream over within seconds and charges it again: the mark shows that it is charged.
 */
const RENEWALS = 5;

/** Marks that Redis keeps of ended generations, and that are not needed any more after a while. */
export class EndMarks {
  #young = new Map<string, string[]>();
  #old = new Map<string, string[]>();
  #renewals = 0;

  /** Adds the mark of a generation in the hash `key`. */
  add(key: string, id: string): void {
    const ids = this.#young.get(key);
    if (ids === undefined) this.#young.set(key, [id]);
    else ids.push(id);
  }

  /** Call after each renewal of the lease. Returns the marks to delete, by hash. */
  onRenewed(): ReadonlyMap<string, readonly string[]> {
    this.#renewals += 1;
    if (this.#renewals < RENEWALS) return NONE;
    this.#renewals = 0;
    const due = this.#old;
    this.#old = this.#young;
    this.#young = new Map();
    return due;
  }
}

const NONE: ReadonlyMap<string, readonly string[]> = new Map();
