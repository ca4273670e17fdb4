import type { Clock } from '../clock.ts';

/** Deposit per question: one tenth of the traffic may be retried. */
const DEPOSIT_PER_QUESTION = 0.1;
/** Highest balance, and the balance at the start. */
const MAX_BALANCE = 10;
/** Deposit per second, so that a service with little traffic can retry too. */
const DEPOSIT_PER_SECOND = 0.1;

/** Bounds retries while an upstream fails. One retry per failure would double the load of a failing upstream. */
export class RetryBudget {
  readonly #clock: Clock;
  #balance = MAX_BALANCE;
  #depositedAt: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#depositedAt = clock.now();
  }

  /** Call for each question. */
  deposit(): void {
    const now = this.#clock.now();
    const deposit = DEPOSIT_PER_QUESTION + ((now - this.#depositedAt) / 1000) * DEPOSIT_PER_SECOND;
    this.#depositedAt = now;
    this.#balance = Math.min(MAX_BALANCE, this.#balance + deposit);
  }

  /** Returns true if another call may be made in addition to the first one of a question. */
  withdraw(): boolean {
    if (this.#balance < 1) return false;
    this.#balance -= 1;
    return true;
  }
}
