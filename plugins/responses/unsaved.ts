import type { Lease } from '../redis/lease.ts';
import { questionBytes, type SavedQuestion } from './types.ts';

export interface UnsavedQuestionsOptions {
  /** Its renewal shows that Redis accepts writes again. */
  readonly lease: Pick<Lease, 'onRenewed'>;
  /** Writes a question to Redis. */
  write(id: string, question: SavedQuestion): Promise<void>;
  /** Called for each question that is given up. */
  onDropped(): void;
}

/** Bound of the questions that wait, in bytes. The oldest are given up. */
const MAX_BYTES = 16_777_216;

/** Questions that Redis did not accept. They are written when it is available again. */
export class UnsavedQuestions {
  readonly #options: UnsavedQuestionsOptions;
  readonly #questions = new Map<string, SavedQuestion>();
  #bytes = 0;
  #writing: Promise<void> | undefined;

  constructor(options: UnsavedQuestionsOptions) {
    this.#options = options;
    options.lease.onRenewed(() => void this.#writeAll());
  }

  get(id: string): SavedQuestion | undefined {
    return this.#questions.get(id);
  }

  add(id: string, question: SavedQuestion): void {
    this.delete(id);
    this.#questions.set(id, question);
    this.#bytes += questionBytes(question);
    for (const oldest of this.#questions.keys()) {
      if (this.#bytes <= MAX_BYTES) return;
      this.delete(oldest);
      this.#options.onDropped();
    }
  }

  delete(id: string): void {
    const question = this.#questions.get(id);
    if (question === undefined) return;
    this.#questions.delete(id);
    this.#bytes -= questionBytes(question);
  }

  /** Writes what waits, if Redis accepts it. */
  async close(): Promise<void> {
    await this.#writing;
    await this.#writeAll();
    this.#questions.clear();
  }

  /** Writes the questions in order. Stops at the first that Redis does not accept. Never rejects. */
  #writeAll(): Promise<void> {
    this.#writing ??= this.#writeInOrder()
      .catch(() => {}) // The next renewal tries again.
      .finally(() => {
        this.#writing = undefined;
      });
    return this.#writing;
  }

  async #writeInOrder(): Promise<void> {
    for (const [id, question] of this.#questions) {
      await this.#options.write(id, question);
      this.delete(id);
    }
  }
}
