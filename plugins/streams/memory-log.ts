import type { ContentPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import { MemoryReader, type ReadableLog } from './memory-reader.ts';
import { partSize } from './part.ts';
import { Segments } from './segments.ts';
import { type Audience, PositionUnknown, type Slice, type StreamInfo, type StreamLog, type Terminal } from './types.ts';

export interface MemoryLogOptions {
  /** Units that the producer may be ahead of the fastest reader. */
  readonly highWaterMark: number;
  readonly flushMs: number;
  readonly clock: Clock;
}

/** What the log tells the store that keeps it. */
export interface Keeper {
  /** The log has grown by so many units. */
  onGrown(log: StreamLog, units: number): void;
  onEnded(log: StreamLog): void;
}

/** Most units in one slice, so that a reader far behind is not handed the whole backlog at once. */
const MAX_SLICE = 65_536;

/** A log in this process. A class, because there are many and methods cost each of them nothing. */
export class MemoryLog implements StreamLog, ReadableLog {
  readonly info: StreamInfo;
  readonly #options: MemoryLogOptions;
  readonly #keeper: Keeper;
  readonly #segments = new Segments();
  readonly #readers = new Set<MemoryReader>();
  #terminal: Terminal | undefined;
  #audience: Audience | undefined;
  #releaseProducer: (() => void) | undefined;

  constructor(info: StreamInfo, options: MemoryLogOptions, keeper: Keeper) {
    this.info = info;
    this.#options = options;
    this.#keeper = keeper;
  }

  get length(): number {
    return this.#segments.length;
  }
  get ended(): boolean {
    return this.#terminal !== undefined;
  }
  get clock(): Clock {
    return this.#options.clock;
  }
  get flushMs(): number {
    return this.#options.flushMs;
  }
  get highWaterMark(): number {
    return this.#options.highWaterMark;
  }

  attend(audience: Audience): void {
    this.#audience = audience;
  }

  append(part: ContentPart): Promise<void> | undefined {
    if (this.ended) return undefined;
    this.#segments.append(part);
    this.#keeper.onGrown(this, partSize(part));
    for (const reader of this.#readers) reader.wake();
    if (!this.#isTooFarAhead()) return undefined;
    return new Promise((resolve) => {
      this.#releaseProducer = resolve;
    });
  }

  end(terminal: Terminal): void {
    if (this.ended) return;
    this.#terminal = terminal;
    this.#audience = undefined;
    this.#segments.seal();
    for (const reader of this.#readers) reader.wake();
    this.onProgress();
    this.#keeper.onEnded(this);
  }

  async read(from: number): Promise<MemoryReader> {
    if (from > this.length) throw new PositionUnknown();
    const reader = new MemoryReader(this, from);
    this.#readers.add(reader);
    this.#audience?.onReaders(this.#readers.size);
    return reader;
  }

  async stop(): Promise<void> {
    this.#audience?.onStop();
  }

  sliceFrom(position: number): Slice {
    let end = position;
    const parts = this.#segments.slice(position, Math.max(MAX_SLICE, this.highWaterMark)).map((part) => {
      end += partSize(part);
      return { part, position: end };
    });
    const terminal = this.#terminal;
    if (terminal === undefined || end < this.length) return { parts };
    return { parts, terminal, ...(terminal.type === 'end' && { answer: this.#segments.text() }) };
  }

  onProgress(): void {
    if (this.#releaseProducer === undefined || (!this.ended && this.#isTooFarAhead())) return;
    this.#releaseProducer();
    this.#releaseProducer = undefined;
  }

  detach(reader: MemoryReader): void {
    if (!this.#readers.delete(reader)) return;
    this.onProgress();
    this.#audience?.onReaders(this.#readers.size);
  }

  #isTooFarAhead(): boolean {
    let fastest = 0;
    for (const reader of this.#readers) fastest = Math.max(fastest, reader.position);
    return this.#readers.size > 0 && this.length - fastest > this.highWaterMark;
  }
}
