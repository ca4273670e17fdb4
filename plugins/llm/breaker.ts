import type { Clock } from '../clock.ts';

export type BreakerState = 'closed' | 'half_open' | 'open';

/** Failures in a row that open it. */
const FAILURES = 5;
/** How long it stays open at first; twice as long after every probe that fails, up to the most. */
const OPEN_MS = { first: 5_000, most: 60_000 };

/**
 * Keeps questions away from a target that fails: open after five failures in a row, then one probe at
 * a time decides. Our own and not a library's, because a call is judged here by its first content and
 * not by its end, time comes from the clock that tests turn, and these are forty lines.
 */
export class Breaker {
  readonly #clock: Clock;
  readonly #onChange: (state: BreakerState) => void;
  #failures = 0;
  #openMs = OPEN_MS.first;
  #openUntil: number | undefined;
  #probing = false;

  constructor(clock: Clock, onChange: (state: BreakerState) => void) {
    this.#clock = clock;
    this.#onChange = onChange;
  }

  get state(): BreakerState {
    if (this.#openUntil === undefined) return 'closed';
    return this.#clock.now() < this.#openUntil ? 'open' : 'half_open';
  }

  /** Milliseconds until a probe may start; 0 where calls may. */
  get opensInMs(): number {
    return this.#openUntil === undefined ? 0 : Math.max(0, this.#openUntil - this.#clock.now());
  }

  /** Whether a call may start now. Each that does is told of by one of the three below. */
  admit(): boolean {
    const { state } = this;
    if (state === 'closed') return true;
    if (state === 'open' || this.#probing) return false;
    this.#probing = true;
    this.#onChange('half_open');
    return true;
  }

  succeeded(): void {
    this.#probing = false;
    this.#failures = 0;
    this.#openMs = OPEN_MS.first;
    if (this.#openUntil === undefined) return;
    this.#openUntil = undefined;
    this.#onChange('closed');
  }

  failed(): void {
    this.#failures += 1;
    const probed = this.#openUntil !== undefined;
    this.#probing = false;
    if (!probed && this.#failures < FAILURES) return;
    if (probed) this.#openMs = Math.min(this.#openMs * 2, OPEN_MS.most);
    this.#openUntil = this.#clock.now() + this.#openMs;
    this.#onChange('open');
  }

  /** The call ended for a reason that says nothing of the target. */
  released(): void {
    this.#probing = false;
  }
}
