import type { Clock } from '../../../clock.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { Terminal } from '../../types.ts';
import { cutPart, partSize } from '../../units.ts';
import type { Producer, StreamCommands } from '../commands.ts';
import type { Entry } from '../entries.ts';

export interface TailOptions {
  readonly id: string;
  readonly memory: MemoryLog;
  readonly records: StreamCommands;
  readonly clock: Clock;
  /** Where reading begins: the id of the entry before. */
  readonly lastEntry?: string;
  /** The copy has grown. */
  onGrown(): void;
}

/** Entries in one read. */
const BATCH_ENTRIES = 256;
/** How long a log that Redis does not have any more may take to come back. */
const MISSING_TIMEOUT_MS = 2_000;

const LOST: Terminal = {
  type: 'error',
  code: 'stream_lost',
  message: 'A part of the answer was lost.',
  status: 502,
  retryable: true,
};

/**
 * The reading side of a log that another replica writes: fills a copy in this process, which readers
 * here follow. It is woken by messages, and never reads further ahead than the copy has room for.
 */
export class LogTail {
  readonly #options: TailOptions;
  #lastEntry: string;
  #reading: Promise<void> | undefined;
  #again = false;
  #closed = false;
  #goneSince: number | undefined;

  constructor(options: TailOptions) {
    this.#options = options;
    this.#lastEntry = options.lastEntry ?? '0-0';
  }

  /** There may be news. Resolves when they are read. */
  wake(): Promise<void> {
    this.#again = true;
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  close(): void {
    this.#closed = true;
  }

  lose(): void {
    this.#options.memory.end(LOST);
  }

  async #read(): Promise<void> {
    const { id, memory, records } = this.#options;
    while (this.#again && !this.#closed && !memory.ended) {
      this.#again = false;
      const entries = await records.after(id, this.#lastEntry, BATCH_ENTRIES);
      for (const entry of entries) {
        if (this.#closed || memory.ended) return;
        await this.#take(entry);
      }
      if (entries.length === BATCH_ENTRIES) this.#again = true;
      if (entries.length > 0) this.#options.onGrown();
    }
  }

  async #take({ id, position, parts, terminal }: Entry): Promise<void> {
    const { memory } = this.#options;
    this.#lastEntry = id;
    const size = parts.reduce((sum, part) => sum + partSize(part), 0);
    let at = position - size;
    // A gap: Redis has come back without its newest entries.
    if (at > memory.length) return memory.end(LOST);
    for (const part of parts) {
      const rest = cutPart(part, Math.max(0, memory.length - at), Number.POSITIVE_INFINITY);
      at += partSize(part);
      if (rest !== undefined) await memory.append(rest);
    }
    if (terminal !== undefined) memory.end(terminal);
  }

  /** Whose log it is, as far as Redis knows; a log that stays away ends as lost. */
  async producer(): Promise<Producer | undefined> {
    const { id, memory, records, clock } = this.#options;
    const meta = await records.meta(id);
    if (meta !== undefined) {
      this.#goneSince = undefined;
      return meta;
    }
    this.#goneSince ??= clock.now();
    if (clock.now() - this.#goneSince >= MISSING_TIMEOUT_MS) memory.end(LOST);
    return undefined;
  }
}
