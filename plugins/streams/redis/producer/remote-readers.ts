import type { Clock } from '../../../clock.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { LogConsumer, MemoryLog } from '../../memory/log.ts';
import { FOLLOW, type Follow, GONE, NEWS, RELEASED } from '../messages.ts';
import type { ProducerLog } from './log.ts';

/** Silence in milliseconds after which a replica counts as having no readers. */
const READER_TIMEOUT_MS = 3_500;

export interface RemoteReadersOptions {
  readonly cluster: Cluster;
  readonly clock: Clock;
  /** The logs that this process produces. */
  readonly running: ReadonlyMap<string, ProducerLog>;
}

/** Stands for readers of which this process cannot hear. They may be at the end of the log. */
const UNHEARD: LogConsumer = { position: Number.POSITIVE_INFINITY, wake() {} };

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
  /** Logs that may have readers of which this process cannot hear. */
  readonly #unheard = new Set<MemoryLog>();
  #cancelUnheard: (() => void) | undefined;

  constructor(options: RemoteReadersOptions) {
    this.#options = options;
    options.cluster.mailbox.on(FOLLOW, (from, body) => {
      for (const [id, readers, position] of body as Follow) this.#onFollow(from, id, readers, position);
    });
    options.cluster.mailbox.onDeaf(() => this.#addUnheard());
    options.cluster.mailbox.onSubscribed(() => this.#expectReports());
  }

  close(): void {
    this.#cancelSweep?.();
    this.#cancelUnheard?.();
  }

  /** Tells replicas with readers that this process has released a log. */
  onReleased(id: string): void {
    for (const [key, { replica, log }] of this.#readers) {
      if (log.info.id !== id) continue;
      this.#options.cluster.mailbox.send(replica, RELEASED, id);
      this.#readers.delete(key);
    }
  }

  /**
   * While no message arrives but Redis works, other replicas may have readers that this process does not hear of.
   * Their answers must not end as abandoned.
   */
  #addUnheard(): void {
    for (const memory of this.#unheard) if (memory.ended) this.#unheard.delete(memory);
    if (!this.#options.cluster.connection.isConnected) return;
    for (const { memory, info, writer } of this.#options.running.values()) {
      if (info.graceMs === 0 || !writer.isSynced || this.#unheard.has(memory)) continue;
      this.#unheard.add(memory);
      memory.addConsumer(UNHEARD);
    }
  }

  /** Replicas repeat their reports within a second; until then they may still have unknown readers. */
  #expectReports(): void {
    const { clock, cluster } = this.#options;
    this.#cancelUnheard?.();
    if (this.#unheard.size === 0) return;
    this.#cancelUnheard = clock.after(READER_TIMEOUT_MS, () => {
      if (cluster.mailbox.subscribedForMs === 0) return this.#expectReports();
      for (const memory of this.#unheard) memory.removeConsumer(UNHEARD);
      this.#unheard.clear();
    });
  }

  #onFollow(from: string, id: string, readers: number, position: number): void {
    const { cluster, clock, running } = this.#options;
    const key = `${from} ${id}`;
    const known = this.#readers.get(key);
    if (readers === 0) {
      this.#remove(key);
      return;
    }
    const log = known?.log ?? running.get(id)?.memory;
    if (log === undefined) {
      // This process does not produce the log: it has ended, or another replica has taken it over.
      cluster.mailbox.send(from, GONE, id);
      return;
    }
    const reader = known ?? new RemoteReader(from, log, () => this.#notify(from, id));
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
  readonly replica: string;
  readonly log: MemoryLog;
  readonly wake: () => void;

  constructor(replica: string, log: MemoryLog, wake: () => void) {
    this.replica = replica;
    this.log = log;
    this.wake = wake;
  }
}
