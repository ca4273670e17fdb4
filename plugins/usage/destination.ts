/** A place to which usage records are written. */
export interface Destination {
  /** Writes one record, without a line break. Returns immediately, and never throws. */
  write(record: string): void;
  /** Writes what waits, for a limited time. Returns the records that could not be written. Never rejects. */
  close(): Promise<string[]>;
}

/** Characters of records that may wait in memory: about 30,000 records. */
export const MAX_WAITING_CHARS = 16_777_216;

/** Records that wait until their destination works again. */
export class Backlog {
  #records: string[] = [];
  #chars = 0;
  readonly #maxChars: number;

  constructor(maxChars = MAX_WAITING_CHARS) {
    this.#maxChars = maxChars;
  }

  get length(): number {
    return this.#records.length;
  }

  /** Adds a record. Returns false if there is no room for it. */
  push(record: string): boolean {
    if (this.#chars + record.length > this.#maxChars) return false;
    this.#records.push(record);
    this.#chars += record.length;
    return true;
  }

  /** Removes and returns the oldest records. */
  take(count: number): string[] {
    const taken = this.#records.splice(0, count);
    for (const { length } of taken) this.#chars -= length;
    return taken;
  }

  takeAll(): string[] {
    return this.take(this.#records.length);
  }
}
