import { ReplyError } from 'ioredis';
import type { ContentPart } from '../../../providers/types.ts';
import type { Clock } from '../../clock.ts';
import type { Lease } from '../../redis/lease.ts';
import type { MemoryLog } from '../memory/log.ts';
import { contentOf, continues, partSize, withContent } from '../part.ts';
import type { Terminal } from '../types.ts';
import type { Names, Records } from './records.ts';

export interface WriterOptions {
  readonly memory: MemoryLog;
  readonly names: Names;
  readonly records: Records;
  readonly clock: Clock;
  /** Milliseconds between two writes, at least. */
  readonly flushMs: number;
  /** The number of this producer. */
  readonly epoch: number;
  /** Whether Redis knows the stream. */
  readonly attached: boolean;
  /** The sign of this process's life: while it is held others leave its logs alone. */
  readonly lease: Lease;
  /** Redis does not have what readers have, and is to be told when it can be: see `catchUp`. */
  onDetached(): void;
  /** Another replica is the producer now; nothing more will be written. */
  onFenced(): void;
  /** The end is written, or nothing will ever be. */
  onDone(): void;
}

/**
 * The producer's side of a log: what is appended goes to Redis, one write at a time, and is shown to
 * readers once Redis has it, so that no reader is ever ahead of what another replica would go on from.
 * Where Redis does not take it the log goes on from memory alone, and is no longer resumable
 * elsewhere, until Redis has caught up.
 */
export class LogWriter {
  readonly #options: WriterOptions;
  #attached: boolean;
  /** Another is the producer, and this one silent. */
  #fenced = false;
  /** Another is the producer, and this one goes on for its own readers. */
  #taken = false;
  /** Where the log ended when Redis last had all of it. */
  #written = 0;
  #pending: ContentPart[] = [];
  #pendingUnits = 0;
  /** Units on their way to Redis. */
  #flying = 0;
  #inFlight = false;
  #sentAt = Number.NEGATIVE_INFINITY;
  #cancelFrame: (() => void) | undefined;
  #terminal: Terminal | undefined;
  #catchingUp = false;
  #waiting: (() => void)[] = [];

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#attached = options.attached;
    if (!this.#attached) this.#detach();
  }

  /** Whether Redis has what readers have. */
  get isAttached(): boolean {
    return this.#attached;
  }

  /** Whether the end was appended, be it on its way still. */
  get hasEnded(): boolean {
    return this.#terminal !== undefined;
  }

  /** Units that no reader sees yet. */
  get unseen(): number {
    return this.#pendingUnits + this.#flying;
  }

  push(part: ContentPart): void {
    if (this.#terminal !== undefined || this.#fenced) return;
    if (!this.#attached) {
      void this.#options.memory.append(part);
      return;
    }
    const last = this.#pending.at(-1);
    if (last !== undefined && continues(last, part)) {
      this.#pending[this.#pending.length - 1] = withContent(last, contentOf(last) + contentOf(part));
    } else this.#pending.push(part);
    this.#pendingUnits += partSize(part);
    this.#schedule();
  }

  end(terminal: Terminal): void {
    if (this.#terminal !== undefined || this.#fenced) return;
    this.#terminal = terminal;
    if (this.#attached) this.#schedule();
    else this.#options.memory.end(terminal);
  }

  /** Resolves once readers see all that was appended. */
  settled(): Promise<void> {
    return this.unseen === 0 ? Promise.resolve() : new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Asks whether this is the producer still, and whether Redis has what it had. */
  async verify(): Promise<void> {
    const { names, records, epoch, memory } = this.#options;
    if (!this.#attached || this.#fenced) return;
    try {
      const position = await records.restore(names, epoch);
      if (position === undefined) this.#onFenced();
      else if (position < memory.length && this.#attached) {
        this.#detach();
        await this.catchUp();
      }
    } catch {
      // Whatever is written next finds out.
    }
  }

  /** Gives Redis what it lacks. Call it when Redis answers; it may be called too often. */
  async catchUp(): Promise<void> {
    if (this.#attached || this.#catchingUp || this.#fenced || this.#taken) return;
    this.#catchingUp = true;
    const { memory, names, records, epoch } = this.#options;
    try {
      let position = await records.restore(names, epoch);
      if (position === undefined) {
        this.#onFenced();
        return;
      }
      while (position < memory.length) {
        const { parts } = memory.sliceFrom(position);
        position = parts.at(-1)?.position ?? memory.length;
        if (
          !(await records.append(
            names.info.id,
            epoch,
            position,
            parts.map(({ part }) => part),
          ))
        )
          return;
      }
      const { terminal } = memory;
      if (terminal !== undefined && position === memory.length) {
        await records.end(names, epoch, position, terminal);
      }
      this.#attached = true;
      this.#written = position;
      memory.setResumable(true);
      if (terminal !== undefined) this.#options.onDone();
    } catch {
      // Redis is asked again.
    } finally {
      this.#catchingUp = false;
    }
  }

  #schedule(): void {
    if (this.#inFlight) return;
    const pause = this.#sentAt + this.#options.flushMs - this.#options.clock.now();
    if (pause <= 0 || this.#terminal !== undefined) {
      this.#cancelFrame?.();
      this.#cancelFrame = undefined;
      this.#send();
    } else {
      this.#cancelFrame ??= this.#options.clock.after(pause, () => {
        this.#cancelFrame = undefined;
        this.#send();
      });
    }
  }

  #send(): void {
    const { memory, names, records, epoch, clock } = this.#options;
    const parts = this.#pending;
    const terminal = this.#terminal;
    this.#flying = this.#pendingUnits;
    this.#pending = [];
    this.#pendingUnits = 0;
    this.#inFlight = true;
    this.#sentAt = clock.now();
    const end = memory.length + this.#flying;
    // Both leave in one turn, on one connection: the end comes behind the rest.
    const writes: Promise<boolean>[] = [];
    if (parts.length > 0) writes.push(records.append(names.info.id, epoch, end, parts));
    if (terminal !== undefined) writes.push(records.end(names, epoch, end, terminal));
    Promise.all(writes).then(
      (written) => this.#onWritten(parts, terminal, written.every(Boolean)),
      (error: unknown) => void this.#onFailed(parts, error),
    );
  }

  #onWritten(parts: readonly ContentPart[], terminal: Terminal | undefined, hasIt: boolean): void {
    if (!hasIt) this.#detach();
    this.#show(parts);
    if (hasIt) this.#written = this.#options.memory.length;
    if (terminal !== undefined) {
      this.#options.memory.end(terminal);
      if (hasIt) this.#options.onDone();
    } else if (!hasIt) this.#showRest();
    else if (this.#pending.length > 0 || this.#terminal !== undefined) this.#schedule();
  }

  async #onFailed(parts: readonly ContentPart[], error: unknown): Promise<void> {
    const { lease, records, names, epoch } = this.#options;
    // A process that was stopped may have lost the log: readers get nothing before that is known.
    const isLost =
      isFenced(error) || (!lease.isHeld && (await records.restore(names, epoch).catch(() => 0)) === undefined);
    if (isLost) this.#onFenced();
    else {
      this.#detach();
      this.#show(parts);
      this.#showRest();
    }
  }

  #onFenced(): void {
    const { memory, onFenced, onDone } = this.#options;
    // Where readers have seen words that Redis never had, they stay with them.
    if (!this.#attached && memory.length > this.#written) {
      this.#taken = true;
      onDone();
      return;
    }
    this.#fenced = true;
    this.#flying = 0;
    this.#inFlight = false;
    this.#pending = [];
    this.#pendingUnits = 0;
    this.#settle();
    onFenced();
  }

  #showRest(): void {
    const rest = this.#pending;
    this.#pending = [];
    this.#pendingUnits = 0;
    this.#show(rest);
    if (this.#terminal !== undefined) this.#options.memory.end(this.#terminal);
  }

  #show(parts: readonly ContentPart[]): void {
    this.#flying = 0;
    this.#inFlight = false;
    for (const part of parts) void this.#options.memory.append(part);
    this.#settle();
  }

  #settle(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #detach(): void {
    this.#attached = false;
    this.#options.memory.setResumable(false);
    this.#options.onDetached();
  }
}

/** Redis refuses an entry below its last: a producer with a higher number has begun. */
function isFenced(error: unknown): boolean {
  return error instanceof ReplyError && /equal or smaller/.test((error as Error).message);
}
