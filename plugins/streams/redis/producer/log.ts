import type { ContentPart } from '../../../../providers/types.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { MemoryReader } from '../../memory/reader.ts';
import type { ProducerEvents, StreamInfo, StreamLog, Terminal } from '../../types.ts';
import { LogWriter } from './writer.ts';
import type { WriterOptions } from './writer-options.ts';

/** What the store is told of a log that is produced here. */
export interface ProducerLogEvents {
  onUnsynced(log: ProducerLog): void;
  onFenced(log: ProducerLog): void;
  onDone(log: ProducerLog): void;
}

/** A log whose producer is this process: read from memory, and written to Redis. */
export class ProducerLog implements StreamLog {
  readonly memory: MemoryLog;
  readonly writer: LogWriter;

  constructor(options: Omit<WriterOptions, keyof ProducerLogEvents>, producing: ProducerLogEvents) {
    this.memory = options.memory;
    this.writer = new LogWriter({
      ...options,
      onUnsynced: () => producing.onUnsynced(this),
      onFenced: () => producing.onFenced(this),
      onDone: () => producing.onDone(this),
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

  subscribe(audience: ProducerEvents): void {
    this.memory.subscribe(audience);
  }

  append(part: ContentPart): Promise<void> | undefined {
    this.writer.push(part);
    const { unacknowledgedUnits } = this.writer;
    return unacknowledgedUnits > MAX_UNACKNOWLEDGED_UNITS
      ? this.writer.flushed()
      : this.memory.drained(unacknowledgedUnits);
  }

  end(terminal: Terminal): void {
    this.writer.end(terminal);
  }

  async read(from: number): Promise<MemoryReader> {
    if (from > this.memory.length) await this.writer.flushed();
    return this.memory.read(from);
  }

  async stop(): Promise<void> {
    if (!this.writer.hasEnded) await this.memory.stop();
  }
}

/** Units that may wait for a slow Redis. */
const MAX_UNACKNOWLEDGED_UNITS = 65_536;
