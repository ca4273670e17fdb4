import {
  type Idempotency,
  KeyConflict,
  StoreFull,
  type StreamInfo,
  type StreamLog,
  type StreamStore,
} from '../types.ts';
import { type LogObserver, MemoryLog, type MemoryLogOptions } from './log.ts';

export interface MemoryStoreOptions extends MemoryLogOptions {
  /** How long an ended stream stays readable, in milliseconds. */
  readonly ttlMs: number;
  /** Bound of all logs together, in bytes. */
  readonly maxTotalBytes: number;
  onEvicted(): void;
}

interface Entry {
  readonly log: MemoryLog;
  readonly idempotency: Idempotency | undefined;
  bytes: number;
  expiresAt: number;
}

/** What a log takes beside its content. */
const LOG_BYTES = 2_048;
/** The most that a UTF-16 unit of a flat string takes. */
const UNIT_BYTES = 2;

/** Streams of one process. Past the bound the oldest ended ones go first, then new ones are refused. */
export class MemoryStore implements StreamStore, LogObserver {
  readonly #options: MemoryStoreOptions;
  readonly #streams = new Map<string, Entry>();
  readonly #keys = new Map<string, Entry>();
  /** The newest running log of each conversation. */
  readonly #chats = new Map<string, MemoryLog>();
  /** In the order in which they ended, which is the order in which they expire. */
  readonly #ended = new Set<Entry>();
  #totalBytes = 0;
  #cancelExpiry: (() => void) | undefined;

  constructor(options: MemoryStoreOptions) {
    this.#options = options;
  }

  async create(info: StreamInfo, idempotency?: Idempotency): Promise<{ log: MemoryLog; created: boolean }> {
    const existing = idempotency && this.#byKey(idempotency);
    if (existing) return { log: existing, created: false };
    if (this.#totalBytes + LOG_BYTES > this.#options.maxTotalBytes && this.#ended.size === 0) throw new StoreFull();
    const log = new MemoryLog(info, this.#options, this);
    const kept: Entry = { log, idempotency, bytes: 0, expiresAt: Number.POSITIVE_INFINITY };
    this.#streams.set(info.id, kept);
    if (idempotency) this.#keys.set(idempotency.key, kept);
    if (info.chat !== undefined) this.#chats.set(info.chat, log);
    this.#grow(kept, LOG_BYTES);
    return { log, created: true };
  }

  async openByKey(idempotency: Idempotency): Promise<MemoryLog | undefined> {
    return this.#byKey(idempotency);
  }

  async openByChat(chat: string): Promise<MemoryLog | undefined> {
    return this.#chats.get(chat);
  }

  async open(id: string): Promise<MemoryLog | undefined> {
    return this.#streams.get(id)?.log;
  }

  async close(): Promise<void> {
    this.#cancelExpiry?.();
    this.#streams.clear();
    this.#keys.clear();
    this.#chats.clear();
    this.#ended.clear();
  }

  /** Whether a log is kept still. */
  has(log: MemoryLog): boolean {
    return this.#streams.get(log.info.id)?.log === log;
  }

  /** Drops a log, and what it takes. */
  forget(id: string): void {
    const kept = this.#streams.get(id);
    if (kept) this.#forget(kept);
  }

  onGrown({ info }: StreamLog, units: number): void {
    const kept = this.#streams.get(info.id);
    if (kept) this.#grow(kept, units * UNIT_BYTES);
  }

  onEnded(log: StreamLog): void {
    const { id, chat } = log.info;
    if (chat !== undefined && this.#chats.get(chat) === log) this.#chats.delete(chat);
    const kept = this.#streams.get(id);
    if (!kept) return;
    kept.expiresAt = this.#options.clock.now() + this.#options.ttlMs;
    this.#ended.add(kept);
    this.#evict();
    if (this.#cancelExpiry === undefined) this.#expire();
  }

  #byKey({ key, fingerprint }: Idempotency): MemoryLog | undefined {
    const kept = this.#keys.get(key);
    if (kept !== undefined && kept.idempotency?.fingerprint !== fingerprint) throw new KeyConflict();
    return kept?.log;
  }

  #grow(kept: Entry, bytes: number): void {
    kept.bytes += bytes;
    this.#totalBytes += bytes;
    this.#evict();
  }

  #evict(): void {
    for (const kept of this.#ended) {
      if (this.#totalBytes <= this.#options.maxTotalBytes) return;
      this.#forget(kept);
      this.#options.onEvicted();
    }
  }

  #forget(kept: Entry): void {
    const { id, chat } = kept.log.info;
    this.#streams.delete(id);
    if (chat !== undefined && this.#chats.get(chat) === kept.log) this.#chats.delete(chat);
    this.#ended.delete(kept);
    if (kept.idempotency) this.#keys.delete(kept.idempotency.key);
    this.#totalBytes -= kept.bytes;
  }

  /** One timer for all of them: it stands for the one that expires first. */
  #expire(): void {
    const { clock } = this.#options;
    this.#cancelExpiry = undefined;
    for (const kept of this.#ended) {
      const remaining = kept.expiresAt - clock.now();
      if (remaining > 0) {
        this.#cancelExpiry = clock.after(remaining, () => this.#expire());
        return;
      }
      this.#forget(kept);
    }
  }
}
