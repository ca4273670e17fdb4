import { questionBytes, type RunningQuestions, type SavedQuestion } from './types.ts';

export interface RunningOptions {
  /** Writes a question to Redis. */
  write(id: string, question: SavedQuestion): Promise<void>;
  /** Reads the question of a stream that another replica has started. */
  read(id: string): Promise<SavedQuestion | undefined>;
}

/** Bound of the questions, in bytes. Beyond it those of the oldest answers are not kept. */
const MAX_BYTES = 16_777_216;
/** Estimated memory of a stream without a question, in bytes. */
const ENTRY_BYTES = 1_024;

/** Questions of answers that this process writes. They are written again with the log, because Redis loses both at once. */
export class RunningInMemory implements RunningQuestions {
  readonly #options: RunningOptions;
  readonly #questions = new Map<string, SavedQuestion | undefined>();
  #bytes = 0;

  constructor(options: RunningOptions) {
    this.#options = options;
  }

  get(id: string): SavedQuestion | undefined {
    return this.#questions.get(id);
  }

  add(id: string): void {
    this.#set(id, undefined);
  }

  adopt(id: string): void {
    this.add(id);
    this.#options.read(id).then(
      (question) => question && this.save(id, question),
      () => {}, // Without it, the response is lost if Redis loses it.
    );
  }

  /** Keeps the first question of a stream, if this process writes its answer. */
  save(id: string, question: SavedQuestion): void {
    if (this.#questions.has(id) && this.get(id) === undefined) this.#set(id, question);
  }

  write(id: string): void {
    const question = this.get(id);
    if (question !== undefined) this.#options.write(id, question).catch(() => {}); // The next comparison tries again.
  }

  delete(id: string): void {
    if (!this.#questions.has(id)) return;
    this.#bytes -= bytesOf(this.get(id));
    this.#questions.delete(id);
  }

  #set(id: string, question: SavedQuestion | undefined): void {
    this.delete(id);
    this.#questions.set(id, question);
    this.#bytes += bytesOf(question);
    for (const oldest of this.#questions.keys()) {
      if (this.#bytes <= MAX_BYTES) return;
      this.delete(oldest);
    }
  }
}

function bytesOf(question: SavedQuestion | undefined): number {
  return question === undefined ? ENTRY_BYTES : questionBytes(question);
}
