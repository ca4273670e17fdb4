import type { AnswerArchive } from '../answer-archive.ts';
import {
  type CreateResult,
  type Idempotency,
  KeyConflict,
  type KeyLookup,
  StoreFull,
  type StreamInfo,
  type StreamStore,
  type Terminal,
} from '../types.ts';
import { BOUNDARY_BYTES } from './boundaries.ts';
import { type LogObserver, MemoryLog, type MemoryLogOptions } from './log.ts';
import { partsOf } from './parts.ts';

export interface MemoryStoreOptions extends MemoryLogOptions {
  /** Milliseconds for which an ended stream stays readable. */
  readonly ttlMs: number;
  /** Bound of all logs together, in bytes. */
  readonly maxTotalBytes: number;
  /** Called for each ended log that is evicted before its time. */
  onEvicted(): void;
  /** Keeps the answers of stored streams. */
  readonly archive?: AnswerArchive | undefined;
}

interface StoredLog {
  readonly log: MemoryLog;
  readonly idempotency: Idempotency | undefined;
  bytes: number;
  expiresAt: number;
}

/** Estimated memory of a log in addition to its content, in bytes. */
const LOG_BYTES = 2_048;
/** Most bytes of one UTF-16 unit in a flat string. */
const UNIT_BYTES = 2;

/**
 * Streams of one process. Beyond the bound it evicts the oldest ended streams first, then refuses new
 * ones.
 */
export class MemoryStore implements StreamStore, LogObserver {
  readonly #options: MemoryStoreOptions;
  readonly #entries = new Map<string, StoredLog>();
  readonly #byKey = new Map<string, StoredLog>();
  /** The newest running log of each conversation. */
  readonly #byChat = new Map<string, MemoryLog>();
  /** Ended logs in the order in which they ended and expire. */
  readonly #ended = new Set<StoredLog>();
  #totalBytes = 0;
  #cancelExpiry: (() => void) | undefined;

  constructor(options: MemoryStoreOptions) {
    this.#options = options;
  }

  async create(info: StreamInfo, idempotency?: Idempotency): Promise<CreateResult & { readonly log: MemoryLog }> {
    const existing = idempotency && this.findByKey(idempotency);
    return existing ? { created: false, log: existing } : { created: true, log: this.add(info, idempotency) };
  }

  async openByKey(lookup: KeyLookup): Promise<MemoryLog | undefined> {
    return this.findByKey(lookup);
  }

  async openByChat(chat: string): Promise<MemoryLog | undefined> {
    return this.#byChat.get(chat);
  }

  async open(id: string): Promise<MemoryLog | undefined> {
    return this.get(id);
  }

  async close(): Promise<void> {
    this.#cancelExpiry?.();
    this.#entries.clear();
    this.#byKey.clear();
    this.#byChat.clear();
    this.#ended.clear();
  }

  /** Adds a log. @throws StoreFull as `create` does */
  add(info: StreamInfo, idempotency?: Idempotency): MemoryLog {
    const bytes = LOG_BYTES + (info.context?.length ?? 0) * UNIT_BYTES;
    if (this.#totalBytes + bytes > this.#options.maxTotalBytes && this.#ended.size === 0) throw new StoreFull();
    const log = new MemoryLog(info, this.#options, this);
    const entry: StoredLog = { log, idempotency, bytes: 0, expiresAt: Number.POSITIVE_INFINITY };
    this.#entries.set(info.id, entry);
    if (idempotency) this.#byKey.set(idempotency.key, entry);
    if (info.chat !== undefined) this.#byChat.set(info.chat, log);
    this.#grow(entry, bytes);
    return log;
  }

  get(id: string): MemoryLog | undefined {
    return this.#entries.get(id)?.log;
  }

  /**
   * Returns the log of a key, unless its question is given and may be asked again.
   * @throws KeyConflict if the key stands for another question
   */
  findByKey(lookup: KeyLookup): MemoryLog | undefined {
    const log = this.findLastByKey(lookup);
    return lookup.fingerprint !== undefined && log?.isRepeatable ? undefined : log;
  }

  /** Returns the last log of a key. @throws KeyConflict as `findByKey` does */
  findLastByKey({ key, fingerprint }: KeyLookup): MemoryLog | undefined {
    const entry = this.#byKey.get(key);
    const isOther = fingerprint !== undefined && entry !== undefined && entry.idempotency?.fingerprint !== fingerprint;
    if (isOther) throw new KeyConflict();
    return entry?.log;
  }

  /** Returns true if the log is still stored. */
  has(log: MemoryLog): boolean {
    return this.get(log.info.id) === log;
  }

  /** Removes a log and releases its memory. */
  remove(log: MemoryLog): void {
    const entry = this.#entries.get(log.info.id);
    if (entry?.log === log) this.#remove(entry);
  }

  onGrown(log: MemoryLog, units: number, appends: number): void {
    const entry = this.#entries.get(log.info.id);
    if (entry?.log === log) this.#grow(entry, units * UNIT_BYTES + appends * BOUNDARY_BYTES);
  }

  onEnded(log: MemoryLog): void {
    const { id, chat, stored } = log.info;
    const { archive } = this.#options;
    if (archive !== undefined && stored !== undefined) archive.keep(log.info, partsOf(log), log.terminal as Terminal);
    if (chat !== undefined && this.#byChat.get(chat) === log) this.#byChat.delete(chat);
    const entry = this.#entries.get(id);
    if (entry?.log !== log) return;
    entry.expiresAt = this.#options.clock.now() + this.#options.ttlMs;
    this.#ended.add(entry);
    this.#evict();
    if (this.#cancelExpiry === undefined) this.#expire();
  }

  #grow(entry: StoredLog, bytes: number): void {
    entry.bytes += bytes;
    this.#totalBytes += bytes;
    this.#evict();
  }

  #evict(): void {
    for (const entry of this.#ended) {
      if (this.#totalBytes <= this.#options.maxTotalBytes) return;
      this.#remove(entry);
      this.#options.onEvicted();
    }
  }

  #remove(entry: StoredLog): void {
    const { id, chat } = entry.log.info;
    this.#entries.delete(id);
    if (chat !== undefined && this.#byChat.get(chat) === entry.log) this.#byChat.delete(chat);
    this.#ended.delete(entry);
    const key = entry.idempotency?.key;
    // The key may stand for a later log, which has asked the same question again.
    if (key !== undefined && this.#byKey.get(key) === entry) this.#byKey.delete(key);
    this.#totalBytes -= entry.bytes;
  }

  /** Removes expired logs. One timer serves all: it is set for the log that expires next. */
  #expire(): void {
    const { clock } = this.#options;
    this.#cancelExpiry = undefined;
    for (const entry of this.#ended) {
      const remaining = entry.expiresAt - clock.now();
      if (remaining > 0) {
        this.#cancelExpiry = clock.after(remaining, () => this.#expire());
        return;
      }
      this.#remove(entry);
    }
  }
}
