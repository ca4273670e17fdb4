import type { ContentPart } from '../../providers/types.ts';
import type { Ownership } from '../streams/ownership.ts';
import type { Terminal } from '../streams/types.ts';
import type { StoredAnswer } from './api.ts';

/** The interface of a store of responses. */

/** A question that was saved. */
export interface SavedQuestion extends Ownership {
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  readonly request: string;
}

export interface Found {
  readonly question: SavedQuestion;
  /** Returns the answer; undefined while it is written, or if it was lost. Call only for a caller who may read it. */
  readAnswer(): Promise<StoredAnswer | undefined>;
}

/** Every method may reject if the store is unavailable, except `save`. */
export interface ResponseStore {
  save(id: string, question: SavedQuestion): Promise<void>;
  find(id: string): Promise<Found | undefined>;
  /** Removes a response that `find` has found, and the answer that may still be written. */
  delete(id: string, question: SavedQuestion): Promise<void>;
  /**
   * Keeps an answer, also before its question is saved. Returns false if the response was deleted. Absent if the log itself
   * is kept.
   */
  keepAnswer?(id: string, owner: string, answer: StoredAnswer): boolean;
  /** Questions of answers that this process writes. Absent if nobody else can lose them. */
  readonly running?: RunningQuestions;
  close(): Promise<void>;
}

/** Keeps the questions of answers that this process writes, in case Redis is emptied. No method throws. */
export interface RunningQuestions {
  /** Begins to keep the question of a stream, as soon as it is saved. */
  add(id: string): void;
  /** The same for a stream that another replica has started. */
  adopt(id: string): void;
  /** Writes the question again. */
  write(id: string): void;
  /** Ends what `add` has begun. */
  delete(id: string): void;
}

export interface StoreLimits {
  /** Milliseconds for which a response is kept after its answer has ended. */
  readonly ttlMs: number;
  /** Longest time in milliseconds for which an answer may be written. */
  maxLogMs(): number;
  /** Most responses of one owner. */
  readonly maxPerOwner: number;
  /** Bound of the questions and answers of one owner, in bytes. */
  readonly maxBytesPerOwner: number;
  /** Called with the number of responses that are removed before their time. */
  onEvicted(count: number): void;
}

/** Estimated memory of a response in addition to its text, in bytes. */
const RESPONSE_BYTES = 1_024;
/** The same for a part of an answer. */
const PART_BYTES = 128;
/** Most bytes of one UTF-16 unit in a flat string. */
const UNIT_BYTES = 2;

/** Returns the memory of a question, in bytes. */
export function questionBytes({ request }: SavedQuestion): number {
  return RESPONSE_BYTES + UNIT_BYTES * request.length;
}

/** Returns the memory of an answer, in bytes. */
export function answerBytes({ parts, terminal }: { parts: readonly ContentPart[]; terminal: Terminal }): number {
  // The state of a provider may be long.
  let units = terminal.type === 'end' && terminal.state !== undefined ? JSON.stringify(terminal.state).length : 0;
  for (const part of parts) units += part.type === 'tool_call' ? part.arguments.length : part.text.length;
  return RESPONSE_BYTES + PART_BYTES * parts.length + UNIT_BYTES * units;
}
