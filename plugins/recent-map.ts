/**
 * A map that forgets the entries that were used longest ago. It keeps at least the last `size` used entries, and at
 * most twice as many: two generations cost less than an exact order.
 */
export class RecentMap<V extends {}> {
  readonly #size: number;
  #young = new Map<string, V>();
  #old = new Map<string, V>();
  #ages = 0;

  constructor(size: number) {
    this.#size = size;
  }

  /** Number of stored entries. */
  get size(): number {
    return this.#young.size + this.#old.size;
  }

  /** Number of times that entries were forgotten. */
  get ages(): number {
    return this.#ages;
  }

  /** Returns the value of a key, and marks it as used. */
  get(key: string): V | undefined {
    const young = this.#young.get(key);
    if (young !== undefined) return young;
    const old = this.#old.get(key);
    if (old !== undefined) this.set(key, old);
    return old;
  }

  set(key: string, value: V): void {
    if (this.#young.size >= this.#size) this.age();
    this.#young.set(key, value);
  }

  delete(key: string): void {
    this.#young.delete(key);
    this.#old.delete(key);
  }

  /** Forgets the entries that were not used since entries were forgotten last. */
  age(): void {
    this.#old = this.#young;
    this.#young = new Map();
    this.#ages += 1;
  }
}
