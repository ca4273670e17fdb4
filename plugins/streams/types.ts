import type { ContentPart, FinishReason, ProviderState, Usage } from '../../providers/types.ts';
import type { ChargeRef } from '../limits/costs.ts';
import type { TokenEstimate } from '../limits/tokens.ts';

/**
 * The interface between the service and the store of logs. Callers must not assume that a log is in memory:
 * calls that return a promise may wait and may fail.
 */

/** The last item of a log. A log has exactly one. */
export type Terminal =
  | {
      readonly type: 'end';
      readonly finishReason: FinishReason | 'stopped';
      readonly usage?: Usage | undefined;
      /** State that the provider wants back with the tool calls of this answer. */
      readonly state?: ProviderState | undefined;
      /** The targets that answered, as `provider/model`, if there was more than one. */
      readonly targets?: readonly string[] | undefined;
    }
  | {
      readonly type: 'error';
      readonly code: string;
      readonly message: string;
      readonly retryable: boolean;
      readonly retryAfterMs?: number | undefined;
      readonly stage?: string | undefined;
      /** Reason of a refusal by the provider; a word of a closed list. */
      readonly reason?: string | undefined;
      /** Field of Chat Completions that the refusal concerns. */
      readonly param?: string | undefined;
      /** HTTP status for answers that are not streamed. */
      readonly status: number;
    };

/** A part and the position after it. */
export interface PlacedPart {
  readonly part: ContentPart;
  readonly position: number;
}

/** New parts for a reader, adjacent content merged. Never empty. */
export interface Slice {
  readonly parts: readonly PlacedPart[];
  /** True if a reader that is cut off can resume. Present only if this has changed. */
  readonly resumable?: boolean;
  readonly terminal?: Terminal;
  /** The whole text of the answer; with an `end` only. */
  readonly answer?: string;
}

/** One append of the log's producer. */
export interface PlacedAppend extends PlacedPart {
  /** Number of appends before this one in the log: the same on every replica and in every replay. */
  readonly index: number;
}

/** New appends for a reader, none merged and none cut. */
export interface AppendSlice extends Slice {
  readonly parts: readonly PlacedAppend[];
}

/** A reader of a log, with its own position. */
export interface LogReader<S extends Slice = Slice> {
  /** Waits for the next slice. A slice with a terminal is the last. One call at a time. */
  next(): Promise<S>;
  /** Detaches. Idempotent; a pending `next` never settles. */
  close(): void;
}

/** A reader that can end before its log. */
export interface EndableReader<S extends Slice = Slice> extends LogReader<S> {
  /** Ends this reader alone: its next slice has no parts and this terminal. */
  end(terminal: Terminal): void;
}

/** A stream whose answer is kept beyond its log. The end of one in the background is announced. */
export type Stored = 'foreground' | 'background';

export interface StreamInfo {
  /** At least 128 random bits, because the id gives read access. */
  readonly id: string;
  /** Public name of the model. */
  readonly model: string;
  /** Milliseconds for which the generation continues without a reader; 0 aborts it immediately. */
  readonly graceMs: number;
  /** Only the owner may read and stop the stream. */
  readonly owner: string;
  /** Mark of the credential of the question: a replica that does not accept it does not continue the answer. */
  readonly mark?: string | undefined;
  /** Nonce of the ticket that started the stream. */
  readonly ticket?: string | undefined;
  /** The client's conversation, prefixed with the owner so that it is unique. */
  readonly chat?: string | undefined;
  /** Data that later readers need of the question, as the route that has asked it encodes it. Bounded by that route. */
  readonly context?: string | undefined;
  /** Present if the answer is kept beyond the log. */
  readonly stored?: Stored | undefined;
  /** Estimated tokens, for a replica that ends the log in place of its producer. */
  readonly estimate?: TokenEstimate | undefined;
  /** Charges to budgets, for the same replica. */
  readonly charges?: readonly ChargeRef[] | undefined;
}

/** Events that a producer receives from its log. */
export interface ProducerEvents {
  /** The number of readers on all replicas has changed. */
  onReaders(count: number): void;
  /** A client asks to end the generation now. */
  onStop(): void;
  /** Another replica has taken the log over. Further appends are dropped. */
  onTakenOver(): void;
}

/** A log as readers see it. */
export interface ReadableLog {
  readonly info: StreamInfo;
  /** True if a reader that is cut off can resume on any replica. */
  readonly resumable: boolean;
  /**
   * Attaches a reader that starts after `position`, which must be 0 or a delivered position.
   * @throws PositionUnknown for a position after the end of the log
   */
  read(position: number): Promise<EndableReader>;
  /**
   * Attaches a reader that starts behind the first `after` appends, and gets each append by itself. An append of more than
   * `MAX_APPEND_UNITS` counts as several; one without content counts as none.
   * @throws PositionUnknown if the log has fewer appends
   */
  readAppends(after: number): Promise<EndableReader<AppendSlice>>;
  /** Asks the producer, on any replica, to end now. Without effect on a log that has ended. */
  stop(): Promise<void>;
}

/** A log as its producer sees it: written once, read by many. */
export interface WritableLog extends ReadableLog {
  /** Units in the log, including those that no reader sees yet; see `units.ts`. */
  readonly length: number;
  /** Subscribes the producer to its events. Call once, before the first append. */
  subscribe(events: ProducerEvents): void;
  /**
   * Appends one part. If it returns a promise, wait for it before the next append: the fastest reader, or
   * the store, is more than the high-water mark behind.
   */
  append(part: ContentPart): Promise<void> | undefined;
  /** Appends the terminal. Everything after it is ignored. */
  end(terminal: Terminal): void;
}

/** Ties an idempotency key to its question: the same key and question give the same stream, until one can be repeated. */
export interface Idempotency {
  readonly key: string;
  /** Hash of the question, so that a key cannot stand for two questions. */
  readonly fingerprint: string;
}

/** An idempotency key alone finds its newest log, whatever the question and its end. */
export type KeyLookup = Pick<Idempotency, 'key'> & Partial<Idempotency>;

/** Either a new log to write, or the existing log of the idempotency key. */
export type CreateResult =
  | { readonly created: true; readonly log: WritableLog }
  | { readonly created: false; readonly log: ReadableLog };

/**
 * Handles a log that this process has taken over from a dead producer. `isStopRequested` is true if a client has asked
 * to end the answer.
 */
export type TakeoverHandler = (
  log: WritableLog,
  serializedPrompt: string | undefined,
  isStopRequested?: boolean,
) => void;

export interface StreamStore {
  /** True if other replicas read the same logs. */
  readonly shared?: boolean;
  /** Registers the handler for logs that this process takes over. Call once. */
  onTakeover?(handler: TakeoverHandler): void;
  /**
   * Creates a log, or finds the log of the same idempotency key. Of several concurrent callers exactly one
   * creates it. A log whose question may be asked again (`isRepeatable`) is not found; it loses the key to the new one.
   * @param serializedPrompt what another replica needs to continue the answer, if it may
   * @throws StoreFull if memory is full and no ended log can be evicted
   * @throws KeyConflict if the key stands for another question
   */
  create(info: StreamInfo, idempotency?: Idempotency, serializedPrompt?: string): Promise<CreateResult>;
  /**
   * Finds the log of an idempotency key if it is still stored and, with a fingerprint, `create` would find it.
   * @throws KeyConflict as `create` does
   */
  openByKey(lookup: KeyLookup): Promise<ReadableLog | undefined>;
  /** Finds the newest log of a conversation if it still runs. */
  openByChat(chat: string): Promise<ReadableLog | undefined>;
  /** Finds a log that runs, or ended less than the time to live ago. */
  open(id: string): Promise<ReadableLog | undefined>;
  /** Before this process stops: lets other replicas continue what they could continue after its death. Never rejects. */
  handOver?(): Promise<void>;
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

/** A newer version has stored a stream. This replica can neither read it nor take it over, and leaves it as it is. */
export class NewerFormat extends Error {
  override readonly name = 'NewerFormat';
  /** Version of the format, as it is stored. */
  readonly format: string;

  constructor(format: string) {
    super('a newer version has stored this stream');
    this.format = format;
  }
}
