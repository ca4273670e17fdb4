import { setTimeout as sleep } from 'node:timers/promises';
import type { Clock } from '../../../clock.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { MemoryReader } from '../../memory/reader.ts';
import type { StreamInfo, StreamLog } from '../../types.ts';
import type { Producer, StreamCommands } from '../commands.ts';
import { LogTail } from './tail.ts';

export interface ReplicaLogOptions {
  readonly info: StreamInfo;
  readonly producer: Producer;
  readonly records: StreamCommands;
  readonly clock: Clock;
  /** The one of several logs of this stream that has the copy; this one, if there is none yet. */
  leaderOf(log: ReplicaLog): ReplicaLog;
  /** Makes the copy. */
  createCopy(info: StreamInfo): Promise<MemoryLog>;
  /** The number of readers here has changed, or how far they have come; 0 when the copy is dropped. */
  onFollowed(log: ReplicaLog, readers: number): void;
  /** Asks the producer to end. */
  stop(log: ReplicaLog): Promise<void>;
}

/** How long a reader may wait for a place that its log has not reached: Redis may be catching up. */
const MAX_AHEAD_WAIT_MS = 2_000;
const AHEAD_POLL_MS = 50;

/** A log that another replica produces: copied from Redis for as long as somebody reads it here. */
export class ReplicaLog implements StreamLog {
  readonly info: StreamInfo;
  producer: Producer;
  /** How often its producer has said that it has no such log. */
  goneTimes = 0;
  readonly #options: ReplicaLogOptions;
  #copy: Promise<{ memory: MemoryLog; tail: LogTail }> | undefined;
  #memory: MemoryLog | undefined;
  #tail: LogTail | undefined;
  #readers = 0;

  constructor(options: ReplicaLogOptions) {
    this.info = options.info;
    this.producer = options.producer;
    this.#options = options;
  }

  get length(): number {
    return this.#memory?.length ?? 0;
  }
  get ended(): boolean {
    return this.#memory?.ended ?? false;
  }
  /** Readers here. */
  get readers(): number {
    return this.#readers;
  }
  get resumable(): boolean {
    return this.info.graceMs > 0;
  }

  async read(from: number): Promise<MemoryReader> {
    const leader = this.#options.leaderOf(this);
    if (leader !== this) return leader.read(from);
    this.#copy ??= this.#follow(this.#options.createCopy(this.info));
    const { memory, tail } = await this.#copy;
    // Counts as a reader while it waits, so that the copy stays, and is filled past slower ones.
    let onReached = () => {};
    const guest = { position: from, wake: () => memory.length >= from && onReached() };
    memory.addConsumer(guest);
    try {
      for (let waited = 0; waited <= MAX_AHEAD_WAIT_MS; waited += AHEAD_POLL_MS) {
        if (waited > 0) await sleep(AHEAD_POLL_MS);
        // It may never be read to its end: it goes no further than readers do.
        const reached = new Promise<void>((resolve) => {
          onReached = resolve;
        });
        const read = tail.wake();
        guest.wake();
        await Promise.race([reached, read]);
        if (memory.length >= from || memory.ended) break;
      }
      return await memory.read(from);
    } finally {
      memory.removeConsumer(guest);
    }
  }

  /** Goes on with a copy that is there already. */
  async adopt(memory: MemoryLog): Promise<void> {
    this.#copy = this.#follow(Promise.resolve(memory));
    await this.#copy;
    await this.wake();
  }

  /** There may be news. */
  async wake(): Promise<void> {
    // Where Redis is away the next message, or its return, wakes it again.
    await this.#tail?.wake().catch(() => {});
  }

  /**
   * Reads all there is, however far readers here are behind.
   * @throws RedisAway, or what Redis says
   */
  async fill(): Promise<void> {
    const guest = { position: Number.POSITIVE_INFINITY, wake() {} };
    this.#memory?.addConsumer(guest);
    try {
      await this.#tail?.wake();
    } finally {
      this.#memory?.removeConsumer(guest);
    }
  }

  /** Nobody will go on with it. */
  lose(): void {
    this.#tail?.lose();
  }

  /** Asks Redis who the producer is now. */
  async refreshProducer(): Promise<void> {
    const producer = await this.#tail?.producer();
    if (producer) this.producer = producer;
  }

  /** Stops following, and leaves the copy to who asks. */
  release(): MemoryLog | undefined {
    this.#tail?.close();
    return this.#memory;
  }

  stop(): Promise<void> {
    return this.#options.stop(this);
  }

  subscribe(): never {
    throw new Error('only the producer attends');
  }
  append(): never {
    throw new Error('only the producer appends');
  }
  end(): never {
    throw new Error('only the producer ends');
  }

  async #follow(copy: Promise<MemoryLog>): Promise<{ memory: MemoryLog; tail: LogTail }> {
    const { info, records, clock, onFollowed } = this.#options;
    const memory = await copy.catch((error) => {
      this.#copy = undefined;
      onFollowed(this, 0);
      throw error;
    });
    const tail = new LogTail({ id: info.id, memory, records, clock, onGrown: () => onFollowed(this, this.#readers) });
    this.#memory = memory;
    this.#tail = tail;
    memory.subscribe({
      onReaders: (count) => {
        this.#readers = count;
        if (count === 0) {
          tail.close();
          this.#copy = undefined;
        }
        onFollowed(this, count);
      },
      onStop: () => void this.stop(),
      onLost() {},
    });
    return { memory, tail };
  }
}
