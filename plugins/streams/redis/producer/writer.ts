import type { ContentPart } from '../../../../providers/types.ts';
import type { Terminal } from '../../types.ts';
import { isStaleProducerError } from '../commands.ts';
import { Batch } from './batch.ts';
import { resync } from './resync.ts';
import { Throttle } from './throttle.ts';
import type { WriterOptions } from './writer-options.ts';

/**
 * The producer's side of a log: what is appended goes to Redis, one write at a time, and is shown to
 * readers once Redis has it, so that no reader is ever ahead of what another replica would go on from.
 * Where Redis does not take it the log goes on from memory alone, and is no longer resumable
 * elsewhere, until Redis has caught up.
 */
export class LogWriter {
  readonly #options: WriterOptions;
  readonly #frame: Throttle;
  #attached: boolean;
  /** Another is the producer, and this one silent. */
  #fenced = false;
  /** Another is the producer, and this one goes on for its own readers. */
  #taken = false;
  /** Where the log ended when Redis last had all of it. */
  #written = 0;
  #pending = new Batch();
  /** On its way to Redis. */
  #flying: Batch | undefined;
  #terminal: Terminal | undefined;
  #catchingUp = false;
  /** Nothing is sent while it is asked whether it may be. */
  #held = false;
  #waiting: (() => void)[] = [];

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#frame = new Throttle(options.clock, options.flushMs);
    this.#attached = options.isSynced;
    this.#written = options.isSynced ? options.memory.length : 0;
    if (!this.#attached) this.#detach();
  }

  /** Whether Redis has what readers have. */
  get isSynced(): boolean {
    return this.#attached;
  }
  /** Whether the end was appended, be it on its way still. */
  get hasEnded(): boolean {
    return this.#terminal !== undefined;
  }

  /** Units that no reader sees yet. */
  get unacknowledgedUnits(): number {
    return this.#pending.units + (this.#flying?.units ?? 0);
  }

  push(part: ContentPart): void {
    if (this.hasEnded || this.#fenced) return;
    if (this.#attached) {
      this.#pending.add(part);
      this.#schedule();
    } else void this.#options.memory.append(part);
  }

  end(terminal: Terminal): void {
    if (this.hasEnded || this.#fenced) return;
    this.#terminal = terminal;
    if (this.#attached) this.#schedule();
    else this.#options.memory.end(terminal);
  }

  /** Resolves once readers see all that was appended. */
  flushed(): Promise<void> {
    if (this.#flying === undefined && (this.unacknowledgedUnits === 0 || this.#held)) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Asks whether this is the producer still, and whether Redis has what it had. */
  async verify(): Promise<void> {
    const { names, records, epoch } = this.#options;
    if (this.#held) return;
    // What is sent meanwhile could fall behind a gap.
    this.#held = true;
    await this.flushed();
    if (this.#attached && !this.#fenced) {
      const position = await records.restore(names, epoch).catch(() => -1);
      if (position === undefined) this.#onTaken();
      else if (position < this.#written) this.#goOnAlone(new Batch());
    }
    this.#held = false;
    if (this.#attached && !this.#fenced && (this.#pending.units > 0 || this.hasEnded)) this.#schedule();
    else await this.resync();
  }

  /** Gives Redis what it lacks. Call it when Redis answers; it may be called too often. */
  async resync(): Promise<void> {
    if (this.#attached || this.#catchingUp || this.#fenced || this.#taken) return;
    this.#catchingUp = true;
    const { memory, names, records, epoch, onDone } = this.#options;
    const position = await resync(memory, names, records, epoch).catch(() => 'gone' as const);
    this.#catchingUp = false;
    if (position === 'taken') this.#onTaken();
    if (typeof position !== 'number') return;
    // More has come in the moment of the answer.
    if (position < memory.length) return this.resync();
    this.#attached = true;
    this.#written = memory.length;
    memory.setResumable(true);
    if (memory.ended) onDone();
  }

  #schedule(): void {
    if (this.#flying === undefined && !this.#held) this.#frame.schedule(this.#send, this.hasEnded);
  }

  readonly #send = (): void => {
    if (!this.#attached || this.#held) return;
    const { memory, names, records, epoch } = this.#options;
    const batch = this.#pending;
    const terminal = this.#terminal;
    this.#flying = batch;
    this.#pending = new Batch();
    const end = memory.length + batch.units;
    // Both leave in one turn, on one connection: the end comes behind the rest.
    const writes: Promise<boolean>[] = [];
    if (batch.units > 0) writes.push(records.append(names.info.id, epoch, end, batch.parts));
    if (terminal !== undefined) writes.push(records.end(names, epoch, end, terminal));
    Promise.all(writes).then(
      (written) => (written.every(Boolean) ? this.#onWritten(batch, terminal) : this.#goOnAlone(batch)),
      (error: unknown) => this.#onFailed(batch, error),
    );
  };

  #onWritten(batch: Batch, terminal: Terminal | undefined): void {
    const { memory, onDone } = this.#options;
    this.#show(batch);
    this.#written = memory.length;
    if (terminal !== undefined) {
      memory.end(terminal);
      onDone();
    } else if (this.#pending.units > 0 || this.hasEnded) this.#schedule();
  }

  async #onFailed(batch: Batch, error: unknown): Promise<void> {
    const { lease, records, names, epoch } = this.#options;
    // The log may be another's, as after a long stop of this process: readers get nothing before that is known.
    const isDoubtful = isStaleProducerError(error) || !lease.isHeld;
    if (isDoubtful && (await records.restore(names, epoch).catch(() => 0)) === undefined) this.#onTaken();
    else this.#goOnAlone(batch);
  }

  /** Redis has not taken it: readers get it all the same. */
  #goOnAlone(batch: Batch): void {
    this.#detach();
    this.#show(batch);
    this.#show(this.#pending);
    this.#pending = new Batch();
    if (this.#terminal !== undefined) this.#options.memory.end(this.#terminal);
  }

  #onTaken(): void {
    const { memory, onFenced, onDone } = this.#options;
    // Where readers have seen words that Redis never had, they stay with them.
    if (!this.#attached && memory.length > this.#written) {
      this.#taken = true;
      onDone();
      return;
    }
    this.#fenced = true;
    this.#pending = new Batch();
    this.#show(this.#pending);
    onFenced();
  }

  #show({ parts }: Batch): void {
    this.#flying = undefined;
    for (const part of parts) void this.#options.memory.append(part);
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #detach(): void {
    this.#attached = false;
    this.#frame.cancel();
    this.#options.memory.setResumable(false);
    this.#options.onUnsynced();
  }
}
