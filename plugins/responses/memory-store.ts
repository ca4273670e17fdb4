import type { Clock } from '../clock.ts';
import type { StoredAnswer } from './api.ts';
import {
  answerBytes,
  type Found,
  questionBytes,
  type ResponseStore,
  type SavedQuestion,
  type StoreLimits,
} from './types.ts';

export interface MemoryResponsesOptions extends StoreLimits {
  readonly clock: Clock;
  /** Milliseconds for which an ended stream stays readable, and so for which a repeated request finds it by its key. */
  readonly streamTtlMs: number;
  /** Bound of the responses of all owners, in bytes. */
  readonly maxTotalBytes: number;
}

interface Entry {
  readonly id: string;
  readonly owner: string;
  question?: SavedQuestion;
  answer?: StoredAnswer;
  bytes: number;
  expiresAt: number;
}

interface Removed {
  readonly expiresAt: number;
  /** False if the response was evicted. */
  readonly isDeleted: boolean;
}

interface OwnerEntries {
  /** In the order in which they began. */
  readonly entries: Set<Entry>;
  bytes: number;
}

/** Longest time between two searches for expired responses, in milliseconds. */
const SWEEP_MS = 60_000;

/** Time for which an answer waits for its question to be saved, in milliseconds. */
const UNSAVED_MS = 60_000;

/** Most removed responses that are remembered. The oldest are forgotten. */
const MAX_REMOVED = 32_768;

/** Responses of a single process. Beyond a bound, the oldest ones are removed. */
export class MemoryResponses implements ResponseStore {
  readonly #options: MemoryResponsesOptions;
  /** In the order in which they began. */
  readonly #entries = new Map<string, Entry>();
  /**
   * Removed responses whose streams may still be found: neither their answers nor the questions of requests that are repeated
   * with an idempotency key are kept.
   */
  readonly #removed = new Map<string, Removed>();
  readonly #owners = new Map<string, OwnerEntries>();
  #totalBytes = 0;
  #cancelSweep: (() => void) | undefined;

  constructor(options: MemoryResponsesOptions) {
    this.#options = options;
  }

  async save(id: string, question: SavedQuestion): Promise<void> {
    if (this.#removed.has(id)) return;
    const entry = this.#entryOf(id, question.owner);
    if (entry.question !== undefined) return;
    entry.question = question;
    const { clock, ttlMs } = this.#options;
    if (entry.answer !== undefined) entry.expiresAt = clock.now() + ttlMs;
    this.#grow(entry, questionBytes(question));
  }

  keepAnswer(id: string, owner: string, answer: StoredAnswer): boolean {
    const removed = this.#removed.get(id);
    if (removed !== undefined) {
      this.#rememberRemoved(id, { ...removed, expiresAt: this.#streamExpiry() });
      return !removed.isDeleted;
    }
    const entry = this.#entryOf(id, owner);
    const { ttlMs, clock } = this.#options;
    // Without a question, the response was evicted, unless its question comes at once.
    entry.expiresAt = clock.now() + (entry.question === undefined ? Math.min(UNSAVED_MS, ttlMs) : ttlMs);
    entry.answer = answer;
    this.#grow(entry, answerBytes(answer));
    return true;
  }

  async find(id: string): Promise<Found | undefined> {
    const entry = this.#entries.get(id);
    if (entry?.question === undefined || entry.expiresAt <= this.#options.clock.now()) return undefined;
    return { question: entry.question, readAnswer: async () => entry.answer };
  }

  async delete(id: string): Promise<void> {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#remove(entry, true);
  }

  async close(): Promise<void> {
    this.#cancelSweep?.();
    this.#entries.clear();
    this.#owners.clear();
    this.#removed.clear();
  }

  /** Returns the entry of an id; adds it for the time that its answer may take. */
  #entryOf(id: string, owner: string): Entry {
    const known = this.#entries.get(id);
    if (known) return known;
    const { clock, maxLogMs, ttlMs } = this.#options;
    const entry: Entry = { id, owner, bytes: 0, expiresAt: clock.now() + maxLogMs() + ttlMs };
    this.#entries.set(id, entry);
    const ofOwner = this.#owners.get(owner) ?? { entries: new Set(), bytes: 0 };
    this.#owners.set(owner, ofOwner);
    ofOwner.entries.add(entry);
    if (this.#cancelSweep === undefined) this.#scheduleSweep();
    return entry;
  }

  #grow(entry: Entry, bytes: number): void {
    const { maxPerOwner, maxBytesPerOwner, maxTotalBytes } = this.#options;
    const ofOwner = this.#owners.get(entry.owner) as OwnerEntries;
    entry.bytes += bytes;
    ofOwner.bytes += bytes;
    this.#totalBytes += bytes;
    this.#evict(ofOwner.entries, () => ofOwner.entries.size > maxPerOwner || ofOwner.bytes > maxBytesPerOwner);
    this.#evict(this.#entries.values(), () => this.#totalBytes > maxTotalBytes);
  }

  #evict(oldestFirst: Iterable<Entry>, isTooMuch: () => boolean): void {
    for (const entry of oldestFirst) {
      if (!isTooMuch()) return;
      this.#remove(entry, false);
      this.#options.onEvicted(1);
    }
  }

  /** Removes a response before its time. */
  #remove(entry: Entry, isDeleted: boolean): void {
    const { id, answer, expiresAt } = entry;
    this.#drop(entry);
    this.#rememberRemoved(id, { isDeleted, expiresAt: answer === undefined ? expiresAt : this.#streamExpiry() });
  }

  #drop(entry: Entry): void {
    this.#entries.delete(entry.id);
    this.#totalBytes -= entry.bytes;
    const ofOwner = this.#owners.get(entry.owner) as OwnerEntries;
    ofOwner.entries.delete(entry);
    ofOwner.bytes -= entry.bytes;
    if (ofOwner.entries.size === 0) this.#owners.delete(entry.owner);
  }

  #rememberRemoved(id: string, removed: Removed): void {
    this.#removed.delete(id);
    this.#removed.set(id, removed);
    const [oldest] = this.#removed.keys();
    if (this.#removed.size > MAX_REMOVED && oldest !== undefined) this.#removed.delete(oldest);
  }

  /** Returns the time at which the stream of an answer that has ended by now is gone. */
  #streamExpiry(): number {
    return this.#options.clock.now() + this.#options.streamTtlMs;
  }

  /** Removes expired responses. They expire in no order, because answers take different times. */
  #sweep(): void {
    const now = this.#options.clock.now();
    for (const entry of this.#entries.values()) if (entry.expiresAt <= now) this.#drop(entry);
    for (const [id, { expiresAt }] of this.#removed) if (expiresAt <= now) this.#removed.delete(id);
    this.#cancelSweep = undefined;
    if (this.#entries.size + this.#removed.size > 0) this.#scheduleSweep();
  }

  #scheduleSweep(): void {
    const { clock, ttlMs } = this.#options;
    this.#cancelSweep = clock.after(Math.min(SWEEP_MS, ttlMs), () => this.#sweep());
  }
}
