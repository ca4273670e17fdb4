import type { FastifyBaseLogger } from 'fastify';
import type { ContentPart, ProviderState } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { BodyClaim } from '../limits/memory-budget.ts';
import type { Prompt } from '../llm/client.ts';
import type { AppendSlice, LogReader, PlacedAppend, PlacedPart, Slice, Stored, Terminal } from './types.ts';

/** The streams as the rest of the service sees them. Routes may import these types. */

export type { AppendSlice, ContentPart, LogReader, PlacedAppend, PlacedPart, ProviderState, Slice, Stored, Terminal };

export interface Question extends Prompt {
  /** Public name of the model; the default model if absent. */
  readonly model?: string | undefined;
}

export interface StartOptions {
  readonly identity: Identity;
  readonly logger: FastifyBaseLogger;
  /**
   * Idempotency key: the same key and question give the same stream as long as it is stored. Another one starts if that has
   * failed for a reason that passes, before its first part.
   */
  readonly key?: string | undefined;
  /** True if the client can resume. Other clients get no grace time. */
  readonly resumable: boolean;
  /** The memory of the question's body, held until the answer has ended. */
  readonly bodyClaim?: BodyClaim | undefined;
  /** The client's own id of the conversation. */
  readonly chat?: string | undefined;
  /** Data that later readers of the stream need of the question, encoded by the caller. Kept with the stream, on all replicas; the caller bounds it. */
  readonly context?: string | undefined;
  /**
   * Keeps the answer for `fastify.storedResponses`. In the `background`, a resumable generation also continues without a
   * reader until it ends, and its end is announced by a webhook.
   */
  readonly stored?: Stored | undefined;
}

export interface Stream {
  readonly id: string;
  /** The caller for whom the stream was found or started. */
  readonly caller: Identity;
  /** Public name of the model. */
  readonly model: string;
  /** The context with which the stream was started. */
  readonly context?: string | undefined;
  /** True if a reader that is cut off now can resume. */
  readonly resumable: boolean;
  /**
   * Attaches a reader that starts after a position; undefined for a position that does not exist.
   * @param reaches a later position that must exist as well
   * @throws 429 or 503 with `retryAfterMs` if too many readers are connected
   */
  read(position: number, reaches?: number): Promise<LogReader | undefined>;
  /**
   * Attaches a reader that starts behind the first `after` appends; undefined if there are fewer. It gets each append by
   * itself, at most 4,097 units long, with its index. Appends are the same on every replica and in every replay.
   * @throws as `read` does
   */
  readAppends(after: number): Promise<LogReader<AppendSlice> | undefined>;
  /** Asks the producer to end the generation. May resolve before it has ended. Idempotent. */
  stop(): Promise<void>;
}

export interface Streams {
  /** True if other replicas serve the same streams. */
  readonly shared: boolean;
  /** Number of generations that run in this process or are about to start. */
  readonly active: number;
  /**
   * Starts one generation, or finds the stream of an idempotency key.
   * @throws 400 for too many messages and for an option that no target of the model can express, 401 for a caller whose key
   *   was revoked meanwhile, 404 for an unknown model, 403 for one that the caller may not use, or whose price its budget needs, 409 for a key of another question, 429 with `retryAfterMs` beyond a limit, 503 with `retryAfterMs` while draining, overloaded
   *   or without a store
   */
  start(question: Question, options: StartOptions): Promise<Stream>;
  /**
   * Finds a stream of the caller that runs or is still stored.
   * @throws 503 with `retryAfterMs` if the store is unavailable
   */
  find(id: string, identity: Identity): Promise<Stream | undefined>;
  /** Finds the newest stream of a conversation if it still runs. @throws as `find` does */
  findByChat(chat: string, identity: Identity): Promise<Stream | undefined>;
  /** Finds the newest stream of an idempotency key of the caller, whatever its question. @throws as `find` does */
  findByKey(key: string, identity: Identity): Promise<Stream | undefined>;
  /** Refuses new questions from now on. */
  close(): void;
  /** Resolves when no generation runs. */
  idle(): Promise<void>;
  /**
   * Ends all running generations with an error that readers receive, except those that another replica can continue:
   * they are handed over, and nothing ends for their readers.
   */
  endAll(): Promise<void>;
}
