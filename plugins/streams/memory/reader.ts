import type { Clock } from '../../clock.ts';
import type { LogReader, PlacedPart, Slice } from '../types.ts';

/** What a reader needs of its log. */
export interface ReadableLog {
  readonly length: number;
  readonly ended: boolean;
  readonly clock: Clock;
  /** Milliseconds between two slices of one reader, unless it is far behind or at the end. */
  readonly flushMs: number;
  /** Units behind which a reader is far behind. */
  readonly highWaterMark: number;
  /** Whether a reader that is cut off can come back. */
  readonly resumable: boolean;
  sliceFrom(position: number): Slice;
  /** A reader has taken, or left. */
  onProgress(): void;
  removeConsumer(reader: MemoryReader): void;
}

/**
 * One reader's place in a log of this process. It is woken by the log, and sets a timer only to
 * wait for the rest of a frame: none at the pace of people.
 */
export class MemoryReader implements LogReader {
  position: number;
  readonly #log: ReadableLog;
  #resolve: ((slice: Slice) => void) | undefined;
  #cancelFlush: (() => void) | undefined;
  #lastTaken = Number.NEGATIVE_INFINITY;
  /** What it knows of that. */
  #resumable: boolean;

  constructor(log: ReadableLog, position: number) {
    this.#log = log;
    this.#resumable = log.resumable;
    this.position = position;
  }

  next(): Promise<Slice> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
      this.wake();
    });
  }

  close(): void {
    this.#resolve = undefined;
    this.#cancelFlush?.();
    this.#log.removeConsumer(this);
  }

  wake(): void {
    const { length, ended, clock, flushMs, highWaterMark, resumable } = this.#log;
    const unread = length - this.position;
    if (this.#resolve === undefined || (unread === 0 && !ended && resumable === this.#resumable)) return;
    const pause = this.#lastTaken + flushMs - clock.now();
    if (pause <= 0 || ended || unread >= highWaterMark) this.#deliver();
    else this.#cancelFlush ??= clock.after(pause, () => this.#deliver());
  }

  #deliver(): void {
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    const resolve = this.#resolve;
    this.#resolve = undefined;
    this.#lastTaken = this.#log.clock.now();
    const slice = this.#log.sliceFrom(this.position);
    this.position = (slice.parts.at(-1) as PlacedPart | undefined)?.position ?? this.position;
    const { resumable } = this.#log;
    resolve?.(resumable === this.#resumable ? slice : { ...slice, resumable });
    this.#resumable = resumable;
    this.#log.onProgress();
  }
}
