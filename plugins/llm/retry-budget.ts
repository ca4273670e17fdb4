import type { Clock } from '../clock.ts';

/** What one question adds: a tenth of the traffic may be asked again. */
const DEPOSIT_PER_QUESTION = 0.1;
/** What may be saved up, and is there at the start. */
const MAX_BALANCE = 10;
/** What a second adds, so that a service with little traffic has some, too. */
const DEPOSIT_PER_SECOND = 0.1;

/**
 * Bounds how much is asked again when an upstream fails: a retry for each failure would double the
 * load of one that is failing under it.
 */
export class RetryBudget {
  readonly #clock: Clock;
  #balance = MAX_BALANCE;
  #countedAt: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#countedAt = clock.now();
  }

  /** A question has come. */
  deposit(): void {
    const now = this.#clock.now();
    const earned = DEPOSIT_PER_QUESTION + ((now - this.#countedAt) / 1000) * DEPOSIT_PER_SECOND;
    this.#countedAt = now;
    this.#balance = Math.min(MAX_BALANCE, this.#balance + earned);
  }

  /** Whether one more call may be made beside the first of a question. */
  withdraw(): boolean {
    if (this.#balance < 1) return false;
    this.#balance -= 1;
    return true;
  }
}
