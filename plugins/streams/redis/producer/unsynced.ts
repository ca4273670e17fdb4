import type { Clock } from '../../../clock.ts';
import type { RedisConnection } from '../../../redis/connection.ts';
import type { ProducerLog } from './log.ts';

/** How often Redis is offered what it could not take. */
const RETRY_MS = 1_000;

/** The logs of which Redis lacks something. They catch up when it answers, for as long as they are kept here. */
export class UnsyncedLogs {
  readonly #clock: Clock;
  readonly #link: RedisConnection;
  readonly #isKept: (log: ProducerLog) => boolean;
  readonly #onDropped: (log: ProducerLog) => void;
  readonly #logs = new Set<ProducerLog>();
  #cancelRetry: (() => void) | undefined;

  /** `onDropped`: a log is no longer kept here, and Redis will never have it. */
  constructor(
    clock: Clock,
    link: RedisConnection,
    isStored: (log: ProducerLog) => boolean,
    onDropped: (log: ProducerLog) => void,
  ) {
    this.#clock = clock;
    this.#link = link;
    this.#isKept = isStored;
    this.#onDropped = onDropped;
    link.onReconnect(() => this.#retry());
  }

  add(log: ProducerLog): void {
    this.#logs.add(log);
    this.#cancelRetry ??= this.#clock.after(RETRY_MS, () => this.#retry());
  }

  delete(log: ProducerLog): void {
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
      if (log.writer.isSynced) this.#logs.delete(log);
      else if (!this.#isKept(log)) this.#onDropped(log);
      else if (this.#link.isAvailable) void log.writer.resync();
    }
    if (this.#logs.size > 0) this.#cancelRetry = this.#clock.after(RETRY_MS, () => this.#retry());
  }
}
