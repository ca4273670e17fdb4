import type { Clock } from '../../../clock.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { AppendReader, MemoryReader } from '../../memory/reader.ts';
import { ENTRIES_LOST } from '../../terminals.ts';
import type { ProducerEvents } from '../../types.ts';
import type { Producer, StreamCommands } from '../commands.ts';
import { LogTail } from './tail.ts';

/** Observer of replica logs. Implemented by `ReplicaWatcher`. */
export interface ReplicaLogObserver {
  /** The number of readers here has changed. */
  onReaders(log: ReplicaLog): void;
  /** The copy has grown. */
  onProgress(log: ReplicaLog): void;
}

export interface ReplicaLogOptions {
  readonly memory: MemoryLog;
  readonly producer: Producer;
  readonly commands: StreamCommands;
  readonly clock: Clock;
  readonly observer: ReplicaLogObserver;
}

/** Longest wait for a position that the log has not reached: the producer may be resyncing. */
const MAX_AHEAD_WAIT_MS = 2_000;
const AHEAD_POLL_MS = 50;

/** Replaces the events of a released log until its new producer subscribes. */
const NO_EVENTS: ProducerEvents = { onReaders() {}, onStop() {}, onTakenOver() {} };

/** The local copy of a log that another replica produces. It exists while it has readers here. */
export class ReplicaLog {
  readonly memory: MemoryLog;
  producer: Producer;
  /** Number of consecutive replies of the producer that it does not produce this log. */
  goneReplies = 0;
  readonly #tail: LogTail;
  readonly #clock: Clock;
  #readers = 0;

  constructor({ memory, producer, commands, clock, observer }: ReplicaLogOptions) {
    this.memory = memory;
    this.producer = producer;
    this.#clock = clock;
    this.#tail = new LogTail({ memory, commands, clock, onGrown: () => observer.onProgress(this) });
    memory.subscribe({
      onReaders: (count) => {
        this.#readers = count;
        observer.onReaders(this);
      },
      onStop() {},
      onTakenOver() {},
    });
  }

  get id(): string {
    return this.memory.info.id;
  }
  /** Units in the copy. */
  get length(): number {
    return this.memory.length;
  }
  get ended(): boolean {
    return this.memory.ended;
  }
  /** Number of readers here. */
  get readers(): number {
    return this.#readers;
  }

  /** Attaches a reader. Waits for a position that the copy has not reached yet. @throws PositionUnknown */
  read(position: number): Promise<MemoryReader> {
    const { memory } = this;
    return this.#readWhen(
      position,
      () => memory.length >= position,
      () => memory.read(position),
    );
  }

  /** Attaches a reader of whole appends. Waits for appends that the copy does not have yet. @throws PositionUnknown */
  readAppends(after: number): Promise<AppendReader> {
    const { memory } = this;
    return this.#readWhen(
      Number.POSITIVE_INFINITY,
      () => memory.appends >= after,
      () => memory.readAppends(after),
    );
  }

  /** @param position position that the copy may reach while this waits, whatever its readers have read */
  async #readWhen<R>(position: number, isReached: () => boolean, read: () => Promise<R>): Promise<R> {
    const { memory } = this;
    // Counts as a reader while it waits, so that the copy exists and grows past slower readers.
    let onReached = () => {};
    const waiter = { position, wake: () => isReached() && onReached() };
    memory.addConsumer(waiter);
    try {
      for (let waitedMs = 0; waitedMs <= MAX_AHEAD_WAIT_MS; waitedMs += AHEAD_POLL_MS) {
        if (waitedMs > 0) await new Promise<void>((resolve) => this.#clock.after(AHEAD_POLL_MS, resolve));
        // The read may never resolve, because the tail reads no further than readers do.
        const reached = new Promise<void>((resolve) => {
          onReached = resolve;
        });
        const tailRead = this.#tail.readNew();
        waiter.wake();
        await Promise.race([reached, tailRead]);
        if (isReached() || memory.ended) break;
      }
      return await read();
    } finally {
      memory.removeConsumer(waiter);
    }
  }

  /** Reads what is new. Never rejects: if Redis is unavailable, a later call reads it. */
  async readNew(): Promise<void> {
    await this.#tail.readNew().catch(() => {});
  }

  /** Reads everything: an infinite position disables back-pressure. @throws RedisUnavailable, or the error reply of Redis */
  async fill(): Promise<void> {
    const consumer = { position: Number.POSITIVE_INFINITY, wake() {} };
    this.memory.addConsumer(consumer);
    try {
      await this.#tail.readNew();
    } finally {
      this.memory.removeConsumer(consumer);
    }
  }

  /** Asks Redis for the producer. @throws RedisUnavailable, or the error reply of Redis */
  async refreshProducer(): Promise<void> {
    const producer = await this.#tail.findProducer();
    if (producer) this.producer = producer;
  }

  onProducerAlive(): void {
    this.#tail.onProducerAlive();
  }

  /** Ends the copy as lost: no replica will continue it. */
  endAsLost(): void {
    this.memory.end(ENTRIES_LOST);
  }

  /** Stops copying. */
  close(): void {
    this.#tail.close();
  }

  /** Stops copying and observing. The log in memory stays with the caller, which produces it from now on. */
  release(): MemoryLog {
    this.close();
    this.memory.subscribe(NO_EVENTS);
    return this.memory;
  }
}
