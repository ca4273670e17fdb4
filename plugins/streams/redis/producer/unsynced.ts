import type { Clock } from '../../../clock.ts';
import type { Link } from '../../../redis/connection.ts';
import type { ProducedLog } from './log.ts';

/** How often Redis is offered what it could not take. */
const RETRY_MS = 1_000;

/** The logs of which Redis lacks something. They catch up when it answers, for as long as they are kept here. */
export class Detached {
  readonly #clock: Clock;
  readonly #link: Link;
  readonly #isKept: (log: ProducedLog) => boolean;
  readonly #onDropped: (log: ProducedLog) => void;
  readonly #logs = new Set<ProducedLog>();
  #cancelRetry: (() => void) | undefined;

  /** `onDropped`: a log is no longer kept here, and Redis will never have it. */
  constructor(clock: Clock, link: Link, isKept: (log: ProducedLog) => boolean, onDropped: (log: ProducedLog) => void) {
    this.#clock = clock;
    this.#link = link;
    this.#isKept = isKept;
    this.#onDropped = onDropped;
    link.onBack(() => this.#retry());
  }

  add(log: ProducedLog): void {
    this.#logs.add(log);
    this.#cancelRetry ??= this.#clock.after(RETRY_MS, () => this.#retry());
  }

  delete(log: ProducedLog): void {
    this.#logs.delete(log);
  }

  close(): void {
    this.#cancelRetry?.();
    this.#logs.clear();
  }

  #retry(): void {
    this.#cancelRetry?.();
    this.#cancelRetry = undefined;
    for (const log of this.#logs) {
      if (log.writer.isAttached) this.#logs.delete(log);
      else if (!this.#isKept(log)) this.#onDropped(log);
      else if (this.#link.up) void log.writer.catchUp();
    }
    if (this.#logs.size > 0) this.#cancelRetry = this.#clock.after(RETRY_MS, () => this.#retry());
  }
}
