import type { ContentPart, FinishReason, Usage } from '../../providers/types.ts';

/**
 * The port between the service and wherever logs are kept. Nothing on this side of it may assume
 * that a log is in memory: every call may take its time, and may fail.
 */

/** The end of a log: one of these, once. */
export type Terminal =
  | {
      readonly type: 'end';
      readonly finishReason: FinishReason | 'stopped';
      readonly usage?: Usage | undefined;
      /** Who answered, where it took more than one. */
      readonly targets?: readonly string[] | undefined;
    }
  | {
      readonly type: 'error';
      readonly code: string;
      readonly message: string;
      readonly retryable: boolean;
      readonly retryAfterMs?: number | undefined;
      readonly stage?: string | undefined;
      /** HTTP status where the answer does not stream. */
      readonly status: number;
    };

/** A part, and the position behind it. */
export interface PlacedPart {
  readonly part: ContentPart;
  readonly position: number;
}

/** What a reader gets in one go: everything new, adjacent content merged. Never empty. */
export interface Slice {
  readonly parts: readonly PlacedPart[];
  /** Whether a reader that is cut off can come back, where that has changed. */
  readonly resumable?: boolean;
  readonly terminal?: Terminal;
  /** All text of the answer; with an `end` only. */
  readonly answer?: string;
}

/** One reader's place in a log. */
export interface LogReader {
  /** Waits for news. Nothing follows a slice that has a terminal. One call at a time. */
  next(): Promise<Slice>;
  /** Detaches. Idempotent; a waiting `next` never settles. */
  close(): void;
}

export interface StreamInfo {
  /** At least 128 random bits: whoever knows it may read. */
  readonly id: string;
  /** The public name of the model. */
  readonly model: string;
  /** How long the generation goes on without a reader, in milliseconds; 0 aborts it at once. */
  readonly graceMs: number;
  /** Whom it belongs to: nobody else reads or stops it. */
  readonly owner: string;
  /** The ticket that started it. */
  readonly ticket?: string | undefined;
  /** The conversation that the client says it belongs to; unique with its owner's name in front. */
  readonly chat?: string | undefined;
}

/** What a producer hears from its log, in turn with its own calls. */
export interface ProducerEvents {
  /** The number of readers, on every replica, has changed. */
  onReaders(count: number): void;
  /** Somebody asks for an end now. */
  onStop(): void;
  /** Another replica has taken the log over: what is still appended is dropped. */
  onLost(): void;
}

/** The log of one generation: written once, read by many, each from a position of its own. */
export interface StreamLog {
  readonly info: StreamInfo;
  /** Units appended so far by this process; see `part.ts`. */
  readonly length: number;
  /** Whether a reader that is cut off can come back, to any replica. */
  readonly resumable: boolean;

  /** Producer: who reads. Call once, before the first append. */
  subscribe(audience: ProducerEvents): void;
  /**
   * Producer: appends one part. A promise means: wait for it before going on, because the fastest
   * reader is more than the high-water mark behind, or the store is.
   */
  append(part: ContentPart): Promise<void> | undefined;
  /** Producer: the one terminal; what comes after it is ignored. */
  end(terminal: Terminal): void;

  /**
   * Attaches a reader behind `from`, which must be 0 or a position that was delivered.
   * @throws PositionUnknown for one that is past the end of the log
   */
  read(from: number): Promise<LogReader>;
  /** Asks the producer, wherever it runs, to end now. Without effect on a log that has ended. */
  stop(): Promise<void>;
}

/** The same question under the same key is the same stream. */
export interface Idempotency {
  readonly key: string;
  /** Hash of the question, so that the key cannot be used for another one. */
  readonly fingerprint: string;
}

export interface StreamStore {
  /** Whether other replicas read the same logs. */
  readonly shared?: boolean;
  /**
   * Who takes care of a log whose producer has died, and which this process has taken over, with the
   * question that it was created with. Call once.
   */
  onTakeover?(heir: (log: StreamLog, question: string | undefined) => void): void;
  /**
   * Creates a log, or finds the one that was created under the same key, which only one of several
   * racing callers can do. `question`: what another replica needs to go on with the answer, if it may.
   * @throws StoreFull when the bound is reached and nothing finished is left to evict
   * @throws KeyConflict when the key stands for another question
   */
  create(info: StreamInfo, idempotency?: Idempotency, question?: string): Promise<{ log: StreamLog; created: boolean }>;
  /**
   * The log that was created under a key, if it is still kept.
   * @throws KeyConflict as `create` does
   */
  openByKey(idempotency: Idempotency): Promise<StreamLog | undefined>;
  /** The newest log of a conversation, if it still runs. */
  openByChat(chat: string): Promise<StreamLog | undefined>;
  /** A log that runs, or has ended less than the time to live ago. */
  open(id: string): Promise<StreamLog | undefined>;
  close(): Promise<void>;
}

export class StoreFull extends Error {
  override readonly name = 'StoreFull';
}

export class KeyConflict extends Error {
  override readonly name = 'KeyConflict';
}

export class PositionUnknown extends Error {
  override readonly name = 'PositionUnknown';
}
