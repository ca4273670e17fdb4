import type { ContentPart } from '../../../../providers/types.ts';
import type { Terminal } from '../../types.ts';
import { isStaleProducerError } from '../stale-producer.ts';
import { Batch } from './batch.ts';
import { resync } from './resync.ts';
import { Throttle } from './throttle.ts';
import type { WriterOptions } from './writer-options.ts';

/** Units that are written without waiting for others. */
const MAX_WAITING_UNITS = 4_096;

/**
 * Writes a log to Redis, one write at a time, and shows each part to readers once Redis has it, so that no
 * reader is ahead of the log from which another replica would continue. If Redis does not accept a write,
 * the log continues in memory and cannot be resumed on other replicas until it is synced again.
 */
export class LogWriter {
  readonly #options: WriterOptions;
  readonly #throttle: Throttle;
  #isSynced: boolean;
  /** Redis may not have the links of the stream yet. */
  #isUnlinked: boolean;
  /** Another replica is the producer, and this one appends nothing more. */
  #isFenced = false;
  /** Another replica is the producer, and this one continues for its own readers only. */
  #isSuperseded = false;
  /** Length of the log when Redis last had all of it. */
  #writtenLength = 0;
  #pending = new Batch();
  /** The batch that is being written. */
  #inFlight: Batch | undefined;
  #terminal: Terminal | undefined;
  #isResyncing = false;
  /** Writes are paused while ownership of the log is checked. */
  #isPaused = false;
  #flushListeners: (() => void)[] = [];

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#throttle = new Throttle(options.clock, options.commits, this.#send);
    this.#isSynced = options.isSynced;
    this.#isUnlinked = !options.isSynced;
    this.#writtenLength = options.isSynced ? options.memory.length : 0;
    if (!this.#isSynced) this.#markUnsynced();
  }

  /** True if Redis has everything that readers have. */
  get isSynced(): boolean {
    return this.#isSynced;
  }
  /** True if the terminal was appended, even if it is not written yet. */
  get hasEnded(): boolean {
    return this.#terminal !== undefined;
  }

  /** Units that no reader sees yet. */
  get unacknowledgedUnits(): number {
    return this.#pending.units + (this.#inFlight?.units ?? 0);
  }

  push(part: ContentPart): void {
    if (this.hasEnded || this.#isFenced) return;
    if (this.#isSynced) {
      this.#throttle.countPart();
      this.#pending.add(part);
      this.#schedule();
    } else void this.#options.memory.append(part);
  }

  end(terminal: Terminal): void {
    if (this.hasEnded || this.#isFenced) return;
    this.#terminal = terminal;
    if (this.#isSynced) this.#schedule();
    else this.#options.memory.end(terminal);
  }

  /** Resolves when readers see everything that was appended. */
  flushed(): Promise<void> {
    if (this.#inFlight === undefined && (this.unacknowledgedUnits === 0 || this.#isPaused)) return Promise.resolve();
    return new Promise((resolve) => this.#flushListeners.push(resolve));
  }

  /** Checks that this process is still the producer and that Redis still has what was written. */
  async verify(): Promise<void> {
    if (this.#isPaused) return;
    // A write during the check could leave a gap.
    this.#isPaused = true;
    await this.flushed();
    if (this.#options.memory.ended) {
      this.#isPaused = false;
      return;
    }
    if (this.#isSynced && !this.#isFenced) {
      const position = await this.#restore().catch(() => -1);
      if (position === undefined) this.#onTakenOver();
      else if (position < this.#writtenLength) this.#continueFromMemory(new Batch());
    }
    this.#isPaused = false;
    this.showResumable();
    if (this.#isSynced && !this.#isFenced && (this.#pending.units > 0 || this.hasEnded)) this.#schedule();
    else await this.resync();
  }

  /** Tells readers whether they can resume on other replicas. Call when the availability of Redis has changed. */
  showResumable(): void {
    if (!this.#isFenced) this.#options.memory.setResumable(this.#isSynced && this.#options.connection.isAvailable);
  }

  /**
   * Stops to write, so that another replica continues the answer. Returns false if none could: Redis lacks a part
   * of the log, or the prompt.
   */
  async handOver(): Promise<boolean> {
    const { keys, commands, epoch, events } = this.#options;
    await this.flushed();
    if (!this.#isSynced || this.#isPaused || this.#isFenced) return false;
    this.#isPaused = true;
    await this.flushed();
    const isReleased = this.#isSynced && (await commands.release(keys.info.id, epoch).catch(() => false));
    this.#isPaused = false;
    // An answer that has ended meanwhile is complete: its end is written, and nobody is told of the release.
    if (isReleased && !this.hasEnded) {
      // What waits is dropped: the other replica continues after what readers have.
      this.#fence();
      events.onDone();
      return true;
    }
    if (this.#isSynced && !this.#options.memory.ended) this.#schedule();
    return false;
  }

  /** Writes what Redis lacks. Call when Redis is available; extra calls have no effect. */
  async resync(): Promise<void> {
    if (this.#isSynced || this.#isResyncing || this.#isFenced || this.#isSuperseded) return;
    this.#isResyncing = true;
    const { memory, events } = this.#options;
    const position = await resync(this.#options, () => this.#restore()).catch(() => 'gone' as const);
    this.#isResyncing = false;
    if (position === 'taken') this.#onTakenOver();
    if (typeof position !== 'number') return;
    // More was appended while the last reply was on its way.
    if (position < memory.length) return this.resync();
    this.#isSynced = true;
    this.#writtenLength = memory.length;
    this.showResumable();
    if (memory.ended) events.onDone();
  }

  /** Call when the log was evicted from memory: it can never be synced. */
  drop(): void {
    this.#options.events.onDone();
  }

  #schedule(): void {
    if (this.#inFlight !== undefined || this.#isPaused) return;
    this.#throttle.schedule(this.hasEnded || this.#pending.units >= MAX_WAITING_UNITS);
  }

  readonly #send = (): void => {
    if (!this.#isSynced || this.#isPaused) return;
    const { memory, keys, commands, epoch } = this.#options;
    const batch = this.#pending;
    const terminal = this.#terminal;
    this.#inFlight = batch;
    this.#pending = new Batch();
    const end = memory.length + batch.units;
    // Both are sent in one turn on one connection, so the terminal arrives after the parts.
    const writes: Promise<boolean>[] = [];
    if (batch.units > 0) writes.push(commands.append(keys.info.id, epoch, end, batch.parts));
    if (terminal !== undefined) writes.push(commands.end(keys, epoch, end, terminal));
    Promise.all(writes).then(
      (written) => (written.every(Boolean) ? this.#onWritten(batch, terminal) : this.#continueFromMemory(batch)),
      (error: unknown) => this.#onFailed(batch, error),
    );
  };

  #onWritten(batch: Batch, terminal: Terminal | undefined): void {
    const { memory, events } = this.#options;
    this.#show(batch);
    this.#writtenLength = memory.length;
    if (terminal !== undefined) {
      memory.end(terminal);
      events.onDone();
    } else if (this.#pending.units > 0 || this.hasEnded) this.#schedule();
  }

  async #onFailed(batch: Batch, error: unknown): Promise<void> {
    const { lease } = this.#options;
    // Another replica may own the log, for example after a long pause of this process. Readers get nothing
    // until that is known.
    const mayBeTakenOver = isStaleProducerError(error) || !lease.isHeld;
    if (mayBeTakenOver && (await this.#restore().catch(() => 0)) === undefined) this.#onTakenOver();
    else this.#continueFromMemory(batch);
  }

  /** Redis did not accept the batch. Readers of this process get it anyway. */
  #continueFromMemory(batch: Batch): void {
    this.#markUnsynced();
    this.#show(batch);
    this.#show(this.#pending);
    this.#pending = new Batch();
    if (this.#terminal !== undefined) this.#options.memory.end(this.#terminal);
  }

  /** Does what `StreamCommands.restore` does. A stream whose creation has failed becomes the newest of its conversation. */
  async #restore(): Promise<number | undefined> {
    const { keys, commands, epoch, memory, events } = this.#options;
    const position = await commands.restore(keys, epoch, this.#isUnlinked && !memory.ended);
    this.#isUnlinked = false;
    if (position !== undefined) events.onCompared();
    return position;
  }

  #onTakenOver(): void {
    const { memory, events } = this.#options;
    // If readers have seen text that Redis never had, they stay with this process.
    if (!this.#isSynced && memory.length > this.#writtenLength) {
      this.#isSuperseded = true;
      events.onDone();
      return;
    }
    this.#fence();
    events.onFenced();
  }

  #fence(): void {
    this.#isFenced = true;
    this.#pending = new Batch();
    this.#finishWrite();
  }

  /** Makes the parts of a batch visible to readers. */
  #show({ parts }: Batch): void {
    for (const part of parts) void this.#options.memory.appendMerged(part);
    this.#finishWrite();
  }

  #finishWrite(): void {
    this.#inFlight = undefined;
    for (const resolve of this.#flushListeners.splice(0)) resolve();
  }

  #markUnsynced(): void {
    this.#isSynced = false;
    this.#throttle.cancel();
    this.#options.memory.setResumable(false);
    this.#options.events.onUnsynced();
  }
}
