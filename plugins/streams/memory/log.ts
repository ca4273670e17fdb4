import type { ContentPart } from '../../../providers/types.ts';
import type { Clock } from '../../clock.ts';
import {
  PositionUnknown,
  type ProducerEvents,
  type Slice,
  type StreamInfo,
  type StreamLog,
  type Terminal,
} from '../types.ts';
import { partSize } from '../units.ts';
import { MemoryReader, type ReadableLog } from './reader.ts';
import { Segments } from './segments.ts';

export interface MemoryLogOptions {
  /** Units that the producer may be ahead of the fastest reader. */
  readonly highWaterMark: number;
  readonly flushMs: number;
  readonly clock: Clock;
}

/** What the log tells the store that keeps it. */
export interface LogObserver {
  /** The log has grown by so many units. */
  onGrown(log: StreamLog, units: number): void;
  onEnded(log: StreamLog): void;
}

/** Whoever follows a log: a reader here, or another replica with readers of its own. */
export interface LogConsumer {
  /** How far it has come. */
  readonly position: number;
  /** The log has grown, or ended, or can be resumed no more, or again. */
  wake(): void;
}

/** Most units in one slice, so that a reader far behind is not handed the whole backlog at once. */
const MAX_SLICE_UNITS = 65_536;

/** A log in this process. A class, because there are many and methods cost each of them nothing. */
export class MemoryLog implements StreamLog, ReadableLog {
  readonly info: StreamInfo;
  readonly #options: MemoryLogOptions;
  readonly #keeper: LogObserver;
  readonly #segments = new Segments();
  readonly #followers = new Set<LogConsumer>();
  #resumable: boolean;
  #terminal: Terminal | undefined;
  #audience: ProducerEvents | undefined;
  #room: Promise<void> | undefined;
  #releaseProducer: (() => void) | undefined;

  constructor(info: StreamInfo, options: MemoryLogOptions, keeper: LogObserver) {
    this.info = info;
    this.#options = options;
    this.#keeper = keeper;
    this.#resumable = info.graceMs > 0;
  }

  get length(): number {
    return this.#segments.length;
  }
  get ended(): boolean {
    return this.#terminal !== undefined;
  }
  get terminal(): Terminal | undefined {
    return this.#terminal;
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
  get resumable(): boolean {
    return this.#resumable;
  }
  get hasConsumers(): boolean {
    return this.#followers.size > 0;
  }

  /** Readers are told when it changes. Without effect on a stream that nobody may come back to. */
  setResumable(resumable: boolean): void {
    if (this.info.graceMs === 0 || this.#resumable === resumable) return;
    this.#resumable = resumable;
    this.#wakeAll();
  }

  subscribe(audience: ProducerEvents): void {
    this.#audience = audience;
    if (this.#followers.size > 0) audience.onReaders(this.#followers.size);
  }

  append(part: ContentPart): Promise<void> | undefined {
    if (this.ended) return undefined;
    this.#segments.append(part);
    this.#keeper.onGrown(this, partSize(part));
    this.#wakeAll();
    return this.drained();
  }

  /** A promise while the fastest reader is too far behind, with `coming` units that no reader sees yet. */
  drained(coming = 0): Promise<void> | undefined {
    if (this.ended || !this.#isTooFarAhead(coming)) return undefined;
    this.#room ??= new Promise((resolve) => {
      this.#releaseProducer = resolve;
    });
    return this.#room;
  }

  end(terminal: Terminal): void {
    if (this.ended) return;
    this.#terminal = terminal;
    this.#audience = undefined;
    this.#segments.seal();
    this.#wakeAll();
    this.onProgress();
    this.#keeper.onEnded(this);
  }

  async read(from: number): Promise<MemoryReader> {
    if (from > this.length) throw new PositionUnknown();
    const reader = new MemoryReader(this, from);
    this.addConsumer(reader);
    return reader;
  }

  async stop(): Promise<void> {
    this.#audience?.onStop();
  }

  /** The producer has lost the log to another. */
  onLost(): void {
    const audience = this.#audience;
    this.#audience = undefined;
    audience?.onLost();
    this.#release();
  }

  addConsumer(follower: LogConsumer): void {
    this.#followers.add(follower);
    this.onProgress();
    this.#audience?.onReaders(this.#followers.size);
  }

  removeConsumer(follower: LogConsumer): void {
    if (!this.#followers.delete(follower)) return;
    this.onProgress();
    this.#audience?.onReaders(this.#followers.size);
  }

  sliceFrom(position: number): Slice {
    let end = position;
    const parts = this.#segments.slice(position, Math.max(MAX_SLICE_UNITS, this.highWaterMark)).map((part) => {
      end += partSize(part);
      return { part, position: end };
    });
    const terminal = this.#terminal;
    if (terminal === undefined || end < this.length) return { parts };
    return { parts, terminal, ...(terminal.type === 'end' && { answer: this.#segments.text() }) };
  }

  onProgress(): void {
    if (this.#room === undefined || (!this.ended && this.#isTooFarAhead(0))) return;
    this.#release();
  }

  #release(): void {
    this.#releaseProducer?.();
    this.#releaseProducer = undefined;
    this.#room = undefined;
  }

  #wakeAll(): void {
    for (const follower of this.#followers) follower.wake();
  }

  #isTooFarAhead(coming: number): boolean {
    let fastest = 0;
    for (const { position } of this.#followers) fastest = Math.max(fastest, position);
    return this.#followers.size > 0 && this.length + coming - fastest > this.highWaterMark;
  }
}
