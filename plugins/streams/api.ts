import type { FastifyBaseLogger } from 'fastify';
import type { Identity } from '../auth/identity.ts';
import type { Prompt } from '../llm/client.ts';
import type { LogReader } from './types.ts';

/** What the rest of the service may do with streams. */

export interface Question extends Prompt {
  /** Public name; the default model where absent. */
  readonly model?: string | undefined;
}

export interface StartOptions {
  readonly identity: Identity;
  readonly logger: FastifyBaseLogger;
  /** The same key and question give the same stream for as long as it is kept. */
  readonly key?: string | undefined;
  /** Whether the client can come back; one that cannot does not pay for a grace time. */
  readonly resumable: boolean;
  /** The conversation that it belongs to, by the client's own id. */
  readonly chat?: string | undefined;
}

export interface Stream {
  readonly id: string;
  readonly owner: string;
  /** The public name of the model. */
  readonly model: string;
  /** Whether a reader that is cut off now can come back. */
  readonly resumable: boolean;
  /** Attaches a reader; undefined for a position that does not exist. */
  read(position: number): Promise<LogReader | undefined>;
  /** Ends the generation now. Idempotent. */
  stop(): Promise<void>;
}

export interface Streams {
  /** Whether other replicas serve the same streams. */
  readonly shared: boolean;
  /** Generations running in this process, and those about to start. */
  readonly active: number;
  /**
   * Asks the model once and logs the answer, or finds the stream that the key stands for.
   * @throws 404 for a model that is not configured, 403 for one that the identity may not use,
   *   409 for a key that stands for another question, 429 with `retryAfterMs` past a limit, 503 with `retryAfterMs` while draining, full, or when the store cannot be asked
   */
  start(question: Question, options: StartOptions): Promise<Stream>;
  /**
   * A stream that runs or is still kept.
   * @throws 503 with `retryAfterMs` when the store cannot be asked
   */
  find(id: string, identity: Identity): Promise<Stream | undefined>;
  /** The newest stream of a conversation, if it still runs; else as `find`. */
  findByChat(chat: string, identity: Identity): Promise<Stream | undefined>;
  /** Refuses new questions from now on. */
  close(): void;
  /** Resolves once nothing runs any more. */
  idle(): Promise<void>;
  /** Ends all that still runs, with an error that readers see. */
  endAll(): void;
}
