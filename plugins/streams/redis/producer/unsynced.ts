import type { Clock } from '../../../clock.ts';
import type { RedisConnection } from '../../../redis/connection.ts';
import type { MemoryStore } from '../../memory/store.ts';
import type { ProducerLog } from './log.ts';

/** Time between two attempts to sync. */
const RETRY_MS = 1_000;

export interface UnsyncedLogsOptions {
  readonly clock: Clock;
  readonly connection: RedisConnection;
  /** Keeps the logs in memory. A log that it has evicted can never be synced. */
  readonly local: MemoryStore;
}

/** Logs of which Redis lacks a part. They are resynced when Redis is available, as long as they are in memory. */
export class UnsyncedLogs {
  readonly #options: UnsyncedLogsOptions;
  readonly #logs = new Set<ProducerLog>();
  #cancelRetry: (() => void) | undefined;

  constructor(options: UnsyncedLogsOptions) {
    this.#options = options;
    options.connection.onAvailable(() => this.#retry());
  }

  add(log: ProducerLog): void {
    this.#logs.add(log);
    this.#cancelRetry ??= this.#options.clock.after(RETRY_MS, () => this.#retry());
  }

  delete(log: ProducerLog): void {
    this.#logs.delete(log);
  }

  close(): void {
    this.#cancelRetry?.();
    this.#logs.clear();
  }

  #retry(): void {
    const { clock, connection, local } = this.#options;
    this.#cancelRetry?.();
    this.#cancelRetry = undefined;
    for (const log of this.#logs) {
      if (log.writer.isSynced) this.#logs.delete(log);
      else if (!local.has(log.memory)) log.writer.drop();
      else if (connection.isAvailable) void log.writer.resync();
    }
    if (this.#logs.size > 0) this.#cancelRetry = clock.after(RETRY_MS, () => this.#retry());
  }
}
