import type { Clock } from '../clock.ts';

export type BreakerState = 'closed' | 'half_open' | 'open';

/** Failures in a row that open it. */
const FAILURE_THRESHOLD = 5;
/** How long it stays open at first; twice as long after every probe that fails, up to the most. */
const OPEN_MS = { first: 5_000, most: 60_000 };

/** A call that was let through. What it reports counts only while the breaker is as it was then. */
export interface Admission {
  readonly epoch: number;
}

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
  #probe: Admission | undefined;
  /** Rises with every opening and closing: calls from before say nothing of what is now. */
  #epoch = 0;

  constructor(clock: Clock, onChange: (state: BreakerState) => void) {
    this.#clock = clock;
    this.#onChange = onChange;
  }

  get state(): BreakerState {
    if (this.#openUntil === undefined) return 'closed';
    return this.#clock.now() < this.#openUntil ? 'open' : 'half_open';
  }

  /** Milliseconds until a probe may start; 0 where calls may. */
  get retryInMs(): number {
    return this.#openUntil === undefined ? 0 : Math.max(0, this.#openUntil - this.#clock.now());
  }

  /** Whether a call may start now. Each that does is told of by one of the three below. */
  admit(): Admission | undefined {
    const { state } = this;
    if (state === 'open' || this.#probe !== undefined) return undefined;
    const admission = { epoch: this.#epoch };
    if (state === 'half_open') {
      this.#probe = admission;
      this.#onChange('half_open');
    }
    return admission;
  }

  succeeded({ epoch }: Admission): void {
    if (epoch !== this.#epoch) return;
    this.#failures = 0;
    this.#openMs = OPEN_MS.first;
    if (this.#openUntil === undefined) return;
    this.#openUntil = undefined;
    this.#turn('closed');
  }

  failed(admission: Admission): void {
    if (admission.epoch !== this.#epoch) return;
    this.#failures += 1;
    const probed = admission === this.#probe;
    if (!probed && this.#failures < FAILURE_THRESHOLD) return;
    if (probed) this.#openMs = Math.min(this.#openMs * 2, OPEN_MS.most);
    this.#openUntil = this.#clock.now() + this.#openMs;
    this.#turn('open');
  }

  /** The call ended for a reason that says nothing of the target. */
  released(admission: Admission): void {
    if (admission === this.#probe) this.#probe = undefined;
  }

  #turn(state: BreakerState): void {
    this.#epoch += 1;
    this.#probe = undefined;
    this.#onChange(state);
  }
}
