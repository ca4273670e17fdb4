import type { Clock } from '../../clock.ts';
import type { AppendSlice, EndableReader, PlacedPart, Slice, Terminal } from '../types.ts';

/** The part of a log that a reader uses. */
export interface ReaderSource {
  readonly length: number;
  readonly ended: boolean;
  readonly clock: Clock;
  /** Least milliseconds between two slices of one reader, unless it is far behind or at the end. */
  readonly flushMs: number;
  /** Units from which a reader counts as far behind. */
  readonly highWaterMark: number;
  /** True if a reader that is cut off can resume. */
  readonly resumable: boolean;
  sliceFrom(position: number): Slice;
  appendsFrom(count: number): AppendSlice;
  /** Called when a reader has advanced. */
  onProgress(): void;
  removeConsumer(reader: Pick<MemoryReader, 'position' | 'wake'>): void;
}

/**
 * A reader of a log in this process. The log wakes it. It sets a timer only to merge parts that follow
 * each other within `flushMs`.
 */
export class MemoryReader<S extends Slice = Slice> implements EndableReader<S> {
  position: number;
  readonly #log: ReaderSource;
  #resolve: ((slice: S) => void) | undefined;
  #cancelFlush: (() => void) | undefined;
  #lastSliceAt = Number.NEGATIVE_INFINITY;
  /** The value of `resumable` in the last slice. */
  #resumable: boolean;
  /** A terminal for this reader alone. */
  #ownTerminal: Terminal | undefined;

  constructor(log: ReaderSource, position: number) {
    this.#log = log;
    this.#resumable = log.resumable;
    this.position = position;
  }

  next(): Promise<S> {
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

  end(terminal: Terminal): void {
    this.#ownTerminal ??= terminal;
    this.wake();
  }

  wake(): void {
    if (this.#ownTerminal !== undefined) {
      this.#deliver();
      return;
    }
    const { length, ended, clock, flushMs, highWaterMark, resumable } = this.#log;
    const unread = length - this.position;
    if (this.#resolve === undefined || (unread === 0 && !ended && resumable === this.#resumable)) return;
    const waitMs = this.#lastSliceAt + flushMs - clock.now();
    if (waitMs <= 0 || ended || unread >= highWaterMark) this.#deliver();
    else this.#cancelFlush ??= clock.after(waitMs, () => this.#deliver());
  }

  #deliver(): void {
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    const resolve = this.#resolve;
    if (resolve === undefined) return;
    this.#resolve = undefined;
    if (this.#ownTerminal !== undefined) {
      resolve({ parts: [], terminal: this.#ownTerminal } as Slice as S);
      return;
    }
    this.#lastSliceAt = this.#log.clock.now();
    const slice = this.slice();
    this.position = (slice.parts.at(-1) as PlacedPart | undefined)?.position ?? this.position;
    const { resumable } = this.#log;
    resolve(resumable === this.#resumable ? slice : { ...slice, resumable });
    this.#resumable = resumable;
    this.#log.onProgress();
  }
  /** Returns what follows the position. */
  protected slice(): S {
    return this.#log.sliceFrom(this.position) as S;
  }
}

/** A reader that gets each append by itself. */
export class AppendReader extends MemoryReader<AppendSlice> {
  readonly #source: ReaderSource;
  /** Number of appends before the next one. */
  #count: number;

  constructor(log: ReaderSource, position: number, count: number) {
    super(log, position);
    this.#source = log;
    this.#count = count;
  }

  protected override slice(): AppendSlice {
    const slice = this.#source.appendsFrom(this.#count);
    this.#count += slice.parts.length;
    return slice;
  }
}
