import type { ContentPart } from '../../../../providers/types.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { AppendReader, MemoryReader } from '../../memory/reader.ts';
import type { ProducerEvents, StreamInfo, Terminal, WritableLog } from '../../types.ts';
import { LogWriter } from './writer.ts';
import type { WriterOptions } from './writer-options.ts';

/** Observer of producer logs. Implemented by `ProducerRegistry`. */
export interface ProducerLogObserver {
  onUnsynced(log: ProducerLog): void;
  onCompared(log: ProducerLog): void;
  onFenced(log: ProducerLog): void;
  onDone(log: ProducerLog): void;
}

/** Units that may wait for a slow Redis. */
const MAX_UNACKNOWLEDGED_UNITS = 65_536;

/** A log that this process produces: read from memory and written to Redis. */
export class ProducerLog implements WritableLog {
  readonly memory: MemoryLog;
  readonly writer: LogWriter;
  #isSubscribed = false;
  #isStopRequested = false;

  constructor(options: Omit<WriterOptions, 'events'>, observer: ProducerLogObserver) {
    this.memory = options.memory;
    this.writer = new LogWriter({
      ...options,
      events: {
        onUnsynced: () => observer.onUnsynced(this),
        onCompared: () => observer.onCompared(this),
        onFenced: () => observer.onFenced(this),
        onDone: () => observer.onDone(this),
      },
    });
  }

  get info(): StreamInfo {
    return this.memory.info;
  }
  get length(): number {
    return this.memory.length + this.writer.unacknowledgedUnits;
  }
  get resumable(): boolean {
    return this.memory.resumable;
  }

  subscribe(events: ProducerEvents): void {
    this.#isSubscribed = true;
    this.memory.subscribe(events);
    if (this.#isStopRequested) events.onStop();
  }

  append(part: ContentPart): Promise<void> | undefined {
    this.writer.push(part);
    const { unacknowledgedUnits } = this.writer;
    if (unacknowledgedUnits > MAX_UNACKNOWLEDGED_UNITS) return this.writer.flushed();
    return this.memory.drained(unacknowledgedUnits);
  }

  end(terminal: Terminal): void {
    this.writer.end(terminal);
  }

  async read(position: number): Promise<MemoryReader> {
    if (position > this.memory.length) await this.writer.flushed();
    return this.memory.read(position);
  }

  async readAppends(after: number): Promise<AppendReader> {
    if (after > this.memory.appends) await this.writer.flushed();
    return this.memory.readAppends(after);
  }

  async stop(): Promise<void> {
    // After a takeover, the generation subscribes only when it has read the text so far.
    this.#isStopRequested = true;
    if (this.#isSubscribed && !this.writer.hasEnded) await this.memory.stop();
  }
}
