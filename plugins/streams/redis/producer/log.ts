import type { ContentPart } from '../../../../providers/types.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { MemoryReader } from '../../memory/reader.ts';
import type { Audience, StreamInfo, StreamLog, Terminal } from '../../types.ts';
import { LogWriter } from './writer.ts';
import type { WriterOptions } from './writer-options.ts';

/** What the store is told of a log that is produced here. */
export interface Producing {
  onDetached(log: ProducedLog): void;
  onFenced(log: ProducedLog): void;
  onDone(log: ProducedLog): void;
}

/** A log whose producer is this process: read from memory, and written to Redis. */
export class ProducedLog implements StreamLog {
  readonly memory: MemoryLog;
  readonly writer: LogWriter;

  constructor(options: Omit<WriterOptions, keyof Producing>, producing: Producing) {
    this.memory = options.memory;
    this.writer = new LogWriter({
      ...options,
      onDetached: () => producing.onDetached(this),
      onFenced: () => producing.onFenced(this),
      onDone: () => producing.onDone(this),
    });
  }

  get info(): StreamInfo {
    return this.memory.info;
  }
  get length(): number {
    return this.memory.length + this.writer.unseen;
  }
  get resumable(): boolean {
    return this.memory.resumable;
  }

  attend(audience: Audience): void {
    this.memory.attend(audience);
  }

  append(part: ContentPart): Promise<void> | undefined {
    this.writer.push(part);
    const { unseen } = this.writer;
    return unseen > MOST_UNSEEN ? this.writer.settled() : this.memory.room(unseen);
  }

  end(terminal: Terminal): void {
    this.writer.end(terminal);
  }

  async read(from: number): Promise<MemoryReader> {
    if (from > this.memory.length) await this.writer.settled();
    return this.memory.read(from);
  }

  async stop(): Promise<void> {
    if (!this.writer.hasEnded) await this.memory.stop();
  }
}

/** Units that may wait for a slow Redis. */
const MOST_UNSEEN = 65_536;
