import type { ContentPart } from '../../../providers/types.ts';
import type { Clock } from '../../clock.ts';
import { isRepeatable } from '../terminals.ts';
import {
  PositionUnknown,
  type ProducerEvents,
  type Slice,
  type StreamInfo,
  type Terminal,
  type WritableLog,
} from '../types.ts';
import { partSize } from '../units.ts';
import { MemoryReader, type ReaderSource } from './reader.ts';
import { Segments } from './segments.ts';

export interface MemoryLogOptions {
  /** Units that the producer may be ahead of the fastest reader. */
  readonly highWaterMark: number;
  /** Least milliseconds between two slices of one reader. */
  readonly flushMs: number;
  readonly clock: Clock;
}

/** Observer of a log. Implemented by `MemoryStore`. */
export interface LogObserver {
  /** The log has grown by a number of units. */
  onGrown(log: MemoryLog, units: number): void;
  onEnded(log: MemoryLog): void;
}

/** Consumes a log: a reader of this process, or another replica on behalf of its readers. */
export interface LogConsumer {
  /** The position up to which it has read. */
  readonly position: number;
  /** The log has grown, has ended, or has changed whether it can be resumed. */
  wake(): void;
}

/**
 * Units in one slice if the high-water mark is lower. A reader that is far behind gets its backlog in slices of the
 * high-water mark.
 */
const MIN_SLICE_UNITS = 4_096;

/** A log in the memory of this process. A class instead of closures: there can be many logs, and methods are shared. */
export class MemoryLog implements WritableLog, ReaderSource {
  readonly info: StreamInfo;
  readonly #options: MemoryLogOptions;
  readonly #observer: LogObserver;
  readonly #segments = new Segments();
  readonly #consumers = new Set<LogConsumer>();
  #resumable: boolean;
  #terminal: Terminal | undefined;
  #answer: string | undefined;
  #events: ProducerEvents | undefined;
  #drained: Promise<void> | undefined;
  #resolveDrained: (() => void) | undefined;

  constructor(info: StreamInfo, options: MemoryLogOptions, observer: LogObserver) {
    this.info = info;
    this.#options = options;
    this.#observer = observer;
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
  /** True if the question of this log may be asked again under its idempotency key. */
  get isRepeatable(): boolean {
    return this.#terminal !== undefined && isRepeatable(this.#terminal, this.length);
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
    return this.#consumers.size > 0;
  }

  /** Informs readers of a change. Without effect on a stream without grace time, which is never resumable. */
  setResumable(resumable: boolean): void {
    if (this.info.graceMs === 0 || this.#resumable === resumable) return;
    this.#resumable = resumable;
    this.#wakeAll();
  }

  subscribe(events: ProducerEvents): void {
    this.#events = events;
    if (this.#consumers.size > 0) events.onReaders(this.#consumers.size);
  }

  append(part: ContentPart): Promise<void> | undefined {
    if (this.ended) return undefined;
    this.#segments.append(part);
    this.#observer.onGrown(this, partSize(part));
    this.#wakeAll();
    return this.drained();
  }

  /**
   * Returns a promise while the fastest reader is too far behind, and undefined otherwise.
   * @param pendingUnits units that will be appended but that no reader sees yet
   */
  drained(pendingUnits = 0): Promise<void> | undefined {
    if (this.ended || !this.#isTooFarAhead(pendingUnits)) return undefined;
    this.#drained ??= new Promise((resolve) => {
      this.#resolveDrained = resolve;
    });
    return this.#drained;
  }

  end(terminal: Terminal): void {
    if (this.ended) return;
    this.#terminal = terminal;
    this.#events = undefined;
    this.#segments.seal();
    this.#wakeAll();
    this.onProgress();
    this.#observer.onEnded(this);
  }

  async read(position: number): Promise<MemoryReader> {
    if (position > this.length) throw new PositionUnknown();
    const reader = new MemoryReader(this, position);
    this.addConsumer(reader);
    return reader;
  }

  async stop(): Promise<void> {
    this.#events?.onStop();
  }

  /** Call when another replica has taken the log over. */
  onTakenOver(): void {
    const events = this.#events;
    this.#events = undefined;
    events?.onTakenOver();
    this.#releaseProducer();
  }

  addConsumer(consumer: LogConsumer): void {
    this.#consumers.add(consumer);
    this.onProgress();
    this.#events?.onReaders(this.#consumers.size);
  }

  removeConsumer(consumer: LogConsumer): void {
    if (!this.#consumers.delete(consumer)) return;
    this.onProgress();
    this.#events?.onReaders(this.#consumers.size);
  }

  /** Returns what follows a position. */
  sliceFrom(position: number): Slice {
    let end = position;
    const parts = this.#segments.slice(position, Math.max(MIN_SLICE_UNITS, this.highWaterMark)).map((part) => {
      end += partSize(part);
      return { part, position: end };
    });
    const terminal = this.#terminal;
    if (terminal === undefined || end < this.length) return { parts };
    return { parts, terminal, ...(terminal.type === 'end' && { answer: this.#answerText() }) };
  }

  /** Returns all text of an ended answer. All readers share one string. */
  #answerText(): string {
    this.#answer ??= this.#segments.text();
    return this.#answer;
  }

  /** Releases a waiting producer if the fastest reader has caught up. Called when a consumer has advanced. */
  onProgress(): void {
    if (this.#drained === undefined || (!this.ended && this.#isTooFarAhead(0))) return;
    this.#releaseProducer();
  }

  #releaseProducer(): void {
    this.#resolveDrained?.();
    this.#resolveDrained = undefined;
    this.#drained = undefined;
  }

  #wakeAll(): void {
    for (const consumer of this.#consumers) consumer.wake();
  }

  #isTooFarAhead(pendingUnits: number): boolean {
    let fastest = 0;
    for (const { position } of this.#consumers) fastest = Math.max(fastest, position);
    return this.#consumers.size > 0 && this.length + pendingUnits - fastest > this.highWaterMark;
  }
}
