import type { ContentPart } from '../../../providers/types.ts';
import type { Clock } from '../../clock.ts';
import { isRepeatable } from '../terminals.ts';
import {
  type AppendSlice,
  type PlacedPart,
  PositionUnknown,
  type ProducerEvents,
  type Slice,
  type StreamInfo,
  type Terminal,
  type WritableLog,
} from '../types.ts';
import { appendSizes, MAX_APPEND_UNITS, type MergedPart, partSize } from '../units.ts';
import { LogContent } from './content.ts';
import { AppendReader, MemoryReader, type ReaderSource } from './reader.ts';

export interface MemoryLogOptions {
  /** Units that the producer may be ahead of the fastest reader. */
  readonly highWaterMark: number;
  /** Least milliseconds between two slices of one reader. */
  readonly flushMs: number;
  readonly clock: Clock;
}

/** Observer of a log. Implemented by `MemoryStore`. */
export interface LogObserver {
  /** The log has grown by a number of units and of appends. */
  onGrown(log: MemoryLog, units: number, appends: number): void;
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
  readonly #content = new LogContent();
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
    return this.#content.length;
  }
  /** Number of appends in the log. */
  get appends(): number {
    return this.#content.appends;
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
    const units = partSize(part);
    return this.#append(part, units, units > MAX_APPEND_UNITS ? appendSizes(part) : undefined);
  }

  /** Appends adjacent appends at once. Returns what `append` does. */
  appendMerged({ part, sizes }: MergedPart): Promise<void> | undefined {
    return this.#append(part, partSize(part), sizes);
  }

  #append(part: ContentPart, units: number, sizes: readonly number[] | undefined): Promise<void> | undefined {
    if (this.#terminal !== undefined || units === 0) return undefined;
    this.#content.append(part, units, sizes);
    this.#observer.onGrown(this, units, sizes === undefined ? 1 : sizes.length);
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
    this.#content.seal();
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

  async readAppends(after: number): Promise<AppendReader> {
    if (after > this.appends) throw new PositionUnknown();
    const reader = new AppendReader(this, this.#content.endOf(after), after);
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
    return this.#toSlice(this.#content.slice(position, this.#sliceUnits), position);
  }

  /** Returns what follows the first `count` appends. */
  appendsFrom(count: number): AppendSlice {
    return this.#toSlice(this.#content.sliceAppends(count, this.#sliceUnits), this.#content.endOf(count));
  }

  /** Returns the appends that follow a position, adjacent ones merged; as many as fit into a slice, and at least one. */
  mergedFrom(position: number): MergedPart[] {
    return this.#content.merged(position, this.#sliceUnits);
  }

  get #sliceUnits(): number {
    return Math.max(MIN_SLICE_UNITS, this.highWaterMark);
  }

  #toSlice<P extends PlacedPart>(parts: P[], start: number): Slice & { readonly parts: readonly P[] } {
    const terminal = this.#terminal;
    if (terminal === undefined || (parts.at(-1)?.position ?? start) < this.length) return { parts };
    return { parts, terminal, ...(terminal.type === 'end' && { answer: this.#answerText() }) };
  }

  /** Returns all text of an ended answer. All readers share one string. */
  #answerText(): string {
    this.#answer ??= this.#content.text();
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
