import type { Clock } from '../../../clock.ts';
import type { MemoryLog } from '../../memory/log.ts';
import { ENTRIES_LOST } from '../../terminals.ts';
import { cutPart, partSize, sizesAfter } from '../../units.ts';
import type { Producer, StreamCommands } from '../commands.ts';
import type { LogEntry } from '../entries.ts';

export interface TailOptions {
  readonly memory: MemoryLog;
  readonly commands: StreamCommands;
  readonly clock: Clock;
  /** Called after each read that brought entries. */
  onGrown(): void;
}

/** Entries of the first read, and most entries of one. */
const FIRST_ENTRIES = 16;
const MAX_ENTRIES = 64;
/** Units that one read should bring: a read that is too large delays those of other logs. */
const READ_UNITS = 131_072;
/** Time in milliseconds after which a log that is missing in Redis counts as lost. */
const MISSING_TIMEOUT_MS = 2_000;

/**
 * Copies a log from Redis into memory. Messages trigger it. It never reads further ahead than the fastest
 * reader allows.
 */
export class LogTail {
  readonly #options: TailOptions;
  readonly #id: string;
  #lastEntry = '0-0';
  /** Entries to read at once. Follows the size of those that came last. */
  #count = FIRST_ENTRIES;
  #reading: Promise<void> | undefined;
  #hasNews = false;
  #isClosed = false;
  #missingSince: number | undefined;

  constructor(options: TailOptions) {
    this.#options = options;
    this.#id = options.memory.info.id;
  }

  /** Reads what is new. Resolves when it is read. @throws RedisUnavailable, or the error reply of Redis */
  readNew(): Promise<void> {
    this.#hasNews = true;
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  close(): void {
    this.#isClosed = true;
  }

  /** Call when the producer is alive: it writes the log again if Redis has lost it. */
  onProducerAlive(): void {
    this.#missingSince = undefined;
  }

  /** Returns the producer as Redis knows it. Ends the log as lost if it stays missing. */
  async findProducer(): Promise<Producer | undefined> {
    const { memory, commands, clock } = this.#options;
    const meta = await commands.meta(this.#id);
    if (meta !== undefined) {
      this.#missingSince = undefined;
      return meta;
    }
    this.#missingSince ??= clock.now();
    if (clock.now() - this.#missingSince >= MISSING_TIMEOUT_MS) memory.end(ENTRIES_LOST);
    return undefined;
  }

  async #read(): Promise<void> {
    const { memory, commands, onGrown } = this.#options;
    while (this.#hasNews && !this.#isClosed && !memory.ended) {
      this.#hasNews = false;
      const count = this.#count;
      const entries = await commands.entriesAfter(this.#id, this.#lastEntry, count);
      this.#adaptCount(entries);
      for (const entry of entries) {
        if (this.#isClosed || memory.ended) return;
        await this.#append(entry);
      }
      if (entries.length === count) this.#hasNews = true;
      if (entries.length > 0) onGrown();
    }
  }

  #adaptCount(entries: readonly LogEntry[]): void {
    if (entries.length === 0) return;
    const units = entries.reduce((sum, { parts }) => sum + unitsOf(parts), 0);
    const fitting = Math.floor((READ_UNITS * entries.length) / Math.max(1, units));
    this.#count = Math.min(MAX_ENTRIES, Math.max(1, fitting));
  }

  async #append({ id, position, parts, terminal }: LogEntry): Promise<void> {
    const { memory } = this.#options;
    this.#lastEntry = id;
    let start = position - unitsOf(parts);
    // A gap: Redis came back without its newest entries.
    if (start > memory.length) return memory.end(ENTRIES_LOST);
    for (const { part, sizes } of parts) {
      const known = Math.max(0, memory.length - start);
      const rest = cutPart(part, known, Number.POSITIVE_INFINITY);
      start += partSize(part);
      if (rest !== undefined) await memory.appendMerged({ part: rest, sizes: sizesAfter(sizes, known) });
    }
    if (terminal !== undefined) memory.end(terminal);
  }
}

function unitsOf(parts: LogEntry['parts']): number {
  return parts.reduce((sum, { part }) => sum + partSize(part), 0);
}
