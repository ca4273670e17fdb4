import type { Clock } from '../../../clock.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { LogConsumer, MemoryLog } from '../../memory/log.ts';
import { FOLLOW, type Follow, GONE, NEWS } from '../messages.ts';

/** Silence in milliseconds after which a replica counts as having no readers. */
const READER_TIMEOUT_MS = 3_500;

export interface RemoteReadersOptions {
  readonly cluster: Cluster;
  readonly clock: Clock;
  /** Finds a log that this process produces. */
  findLog(id: string): MemoryLog | undefined;
}

/**
 * Readers on other replicas, as their producer sees them. Each replica with readers counts as one
 * consumer of the log, for grace time and back-pressure, and is told when the log grows.
 */
export class RemoteReaders {
  readonly #options: RemoteReadersOptions;
  readonly #readers = new Map<string, RemoteReader>();
  /** Ids of logs with news, by replica. */
  readonly #news = new Map<string, Set<string>>();
  #cancelSweep: (() => void) | undefined;

  constructor(options: RemoteReadersOptions) {
    this.#options = options;
    options.cluster.mailbox.on(FOLLOW, (from, body) => {
      for (const [id, readers, position] of body as Follow) this.#onFollow(from, id, readers, position);
    });
  }

  close(): void {
    this.#cancelSweep?.();
  }

  #onFollow(from: string, id: string, readers: number, position: number): void {
    const { cluster, clock, findLog } = this.#options;
    const key = `${from} ${id}`;
    const known = this.#readers.get(key);
    if (readers === 0) {
      this.#remove(key);
      return;
    }
    const log = known?.log ?? findLog(id);
    if (log === undefined) {
      // This process does not produce the log: it has ended, or another replica has taken it over.
      cluster.mailbox.send(from, GONE, id);
      return;
    }
    const reader = known ?? new RemoteReader(log, () => this.#notify(from, id));
    reader.position = position;
    reader.seenAt = clock.now();
    if (known === undefined) {
      this.#readers.set(key, reader);
      log.addConsumer(reader);
      this.#cancelSweep ??= clock.after(READER_TIMEOUT_MS / 2, () => this.#sweep());
    } else log.onProgress();
    // The other replica may have missed an earlier message.
    if (log.length > position || log.ended) reader.wake();
  }

  #remove(key: string): void {
    const reader = this.#readers.get(key);
    this.#readers.delete(key);
    reader?.log.removeConsumer(reader);
  }

  #sweep(): void {
    const { cluster, clock } = this.#options;
    const now = clock.now();
    // While Redis was unavailable no report could arrive, so all replicas get time to report again.
    const connectedForMs = Math.min(cluster.lease.renewedForMs, cluster.mailbox.subscribedForMs);
    const wasDisconnected = connectedForMs < READER_TIMEOUT_MS;
    for (const [key, reader] of this.#readers) {
      if (wasDisconnected) reader.seenAt = now;
      else if (reader.seenAt < now - READER_TIMEOUT_MS) this.#remove(key);
    }
    const isEmpty = this.#readers.size === 0;
    this.#cancelSweep = isEmpty ? undefined : clock.after(READER_TIMEOUT_MS / 2, () => this.#sweep());
  }

  /** Sends one message per turn and replica, whatever the number of logs. */
  #notify(replica: string, id: string): void {
    if (this.#news.size === 0) setImmediate(() => this.#sendNews());
    const ids = this.#news.get(replica) ?? new Set();
    this.#news.set(replica, ids.add(id));
  }

  #sendNews(): void {
    const { mailbox } = this.#options.cluster;
    for (const [replica, ids] of this.#news) mailbox.send(replica, NEWS, [...ids]);
    this.#news.clear();
  }
}

class RemoteReader implements LogConsumer {
  position = 0;
  seenAt = 0;
  readonly log: MemoryLog;
  readonly wake: () => void;

  constructor(log: MemoryLog, wake: () => void) {
    this.log = log;
    this.wake = wake;
  }
}
