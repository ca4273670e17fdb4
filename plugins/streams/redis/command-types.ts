import type { Cluster } from '../../redis/index.ts';
import type { AnswerArchive } from '../answer-archive.ts';
import type { Idempotency, StreamInfo } from '../types.ts';

/** The producer of a log. */
export interface Producer {
  readonly replica: string;
  /** Number of producers that the log has had; rises with each takeover. */
  readonly epoch: number;
}

/** Result of taking a log over. */
export interface Takeover {
  /** Epoch of the new producer. */
  readonly epoch: number;
  /** End of the log. */
  readonly position: number;
  /** The prompt as JSON, if the answer may be continued. */
  readonly serializedPrompt: string | undefined;
  /** True if a client has asked to end the answer. */
  readonly isStopRequested: boolean;
}

export interface Meta extends Producer {
  readonly info: StreamInfo;
  readonly hasEnded: boolean;
}

/** Names the keys of a stream. */
export interface StreamKeys {
  readonly info: StreamInfo;
  readonly idempotency?: Idempotency | undefined;
  /** Id of a stream of this process that had the idempotency key before, and has failed. */
  readonly replaced?: string | undefined;
}

export interface StreamCommandsOptions {
  readonly cluster: Cluster;
  /** Milliseconds for which an ended stream stays readable. */
  readonly ttlMs: number;
  /** Longest time in milliseconds for which a log may be written. Logs of dead producers expire then. */
  maxLogMs(): number;
  /** Says how long the logs of stored streams are kept, and what announces their end. */
  readonly archive?: AnswerArchive | undefined;
  /** Version of the format; another one only in tests. */
  readonly format?: number | undefined;
}
