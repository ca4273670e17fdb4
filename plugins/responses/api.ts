import type { ContentPart } from '../../providers/types.ts';
import type { Identity } from '../auth/identity.ts';
import type { Terminal } from '../streams/api.ts';

/** Stored responses as the rest of the service sees them. Routes may import these types. */

export type { ContentPart, Terminal };

/** Outcome of an answer, with the words of OpenAI's Responses API. */
export type AnswerStatus = 'completed' | 'incomplete' | 'failed' | 'cancelled';

/** The answer of a response that has ended. */
export interface StoredAnswer {
  /** All parts in order, adjacent content merged. A tool call is one part or several with the same `index`. */
  readonly parts: readonly ContentPart[];
  readonly terminal: Terminal;
  /** Milliseconds since 1970; undefined as long as Redis does not accept the end of the answer. */
  readonly endedAt: number | undefined;
  readonly status: AnswerStatus;
}

export interface StoredResponse {
  /** Id of the stream. */
  readonly id: string;
  readonly owner: string;
  /** Milliseconds since 1970 at which it was saved. */
  readonly createdAt: number;
  /** The question as the route has encoded it. */
  readonly request: string;
  /**
   * Absent while the answer is written; on other replicas also as long as Redis does not accept its end. If `fastify.streams` does not know the stream either, the answer was lost: its
   * replica died without a successor, or Redis was emptied.
   */
  readonly answer?: StoredAnswer | undefined;
}

/**
 * Keeps questions and their answers for `responses.ttlMs` after the end of the answer: on all replicas with Redis, else in
 * this process. Start the stream with the option `stored`; the replica that ends the log then keeps the answer, together with
 * the end, also after a takeover.
 */
export interface StoredResponses {
  /** Milliseconds for which a response is kept after the end of its answer. */
  readonly ttlMs: number;
  /**
   * Checks that a question is short enough to be kept. Call before the stream is started.
   * @param request as for `save`
   * @throws 413 if it is longer than `responses.maxRequestChars`
   */
  check(request: string): void;
  /**
   * Keeps the question of a stream that was started with `stored`. Never waits longer than Redis may take for one command;
   * if Redis is unavailable, the question is written when it is back. The oldest responses of the owner are removed
   * if they are more or larger than the limits allow.
   * @param id id of the stream
   * @param request JSON text; only the route knows its fields
   */
  save(id: string, identity: Identity, request: string): Promise<void>;
  /**
   * Finds a response of the caller: as with streams, that of another owner is unknown, and the holder of a key finds those
   * of its visitors.
   * @throws 503 with `retryAfterMs` while Redis is configured and unavailable
   */
  find(id: string, identity: Identity): Promise<StoredResponse | undefined>;
  /**
   * Removes a response of the caller. Returns false if there is none. An answer that still runs is not kept, and its end
   * is not announced; stop its stream to end it. The stream stays readable as every other, for `streams.ttlMs` at most.
   * @throws as `find` does
   */
  delete(id: string, identity: Identity): Promise<boolean>;
}
