import type { Clock } from '../clock.ts';

export type BreakerState = 'closed' | 'half_open' | 'open';

/** Consecutive failures that open the breaker. */
const FAILURE_THRESHOLD = 5;
/** Time that the breaker stays open. Doubles after each failed probe. */
const OPEN_DURATION_MS = { initial: 5_000, max: 60_000 };

/** An admitted call. Its result counts only if the breaker has not changed state since. */
export interface Admission {
  readonly epoch: number;
}

/**
 * Circuit breaker of one target. Opens after five consecutive failures; then one probe at a time decides.
 * Not a library, because a call succeeds here with its first content and not with its end, and because
 * time comes from the injected clock.
 */
export class Breaker {
  readonly #clock: Clock;
  readonly #onChange: (state: BreakerState) => void;
  #failures = 0;
  #openMs = OPEN_DURATION_MS.initial;
  #openUntil: number | undefined;
  #probe: Admission | undefined;
  /** Rises with each change of state. Results of calls from earlier epochs are ignored. */
  #epoch = 0;

  constructor(clock: Clock, onChange: (state: BreakerState) => void) {
    this.#clock = clock;
    this.#onChange = onChange;
  }

  get state(): BreakerState {
    if (this.#openUntil === undefined) return 'closed';
    return this.#clock.now() < this.#openUntil ? 'open' : 'half_open';
  }

  /** Milliseconds until a probe may start; 0 if calls are admitted now. */
  get retryInMs(): number {
    return this.#openUntil === undefined ? 0 : Math.max(0, this.#openUntil - this.#clock.now());
  }

  /**
   * Admits a call, or returns undefined. Report each admitted call by `failed` or `released`, and before that
   * by `succeeded` when its first part has arrived.
   */
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
    this.#openMs = OPEN_DURATION_MS.initial;
    if (this.#openUntil === undefined) return;
    this.#openUntil = undefined;
    this.#changeState('closed');
  }

  failed(admission: Admission): void {
    if (admission.epoch !== this.#epoch) return;
    this.#failures += 1;
    const isProbe = admission === this.#probe;
    if (!isProbe && this.#failures < FAILURE_THRESHOLD) return;
    if (isProbe) this.#openMs = Math.min(this.#openMs * 2, OPEN_DURATION_MS.max);
    this.#openUntil = this.#clock.now() + this.#openMs;
    this.#changeState('open');
  }

  /** Call if the call ended for a reason that does not concern the target. */
  released(admission: Admission): void {
    if (admission === this.#probe) this.#probe = undefined;
  }

  #changeState(state: BreakerState): void {
    this.#epoch += 1;
    this.#probe = undefined;
    this.#onChange(state);
  }
}
