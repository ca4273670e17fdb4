import type { EventMessage } from 'fastify';
import type {} from 'fastify-sse-v2';

/** Types of `plugins/sse` that routes may import. */

/**
 * An event whose JSON holds one long text. It is written in pieces, so that a response never buffers the whole
 * text. It must be the last event of its response.
 */
export interface LongTextEvent {
  readonly id: string;
  /** JSON before the text, without its opening quote. */
  readonly before: string;
  readonly text: string;
  /** JSON after the text, without its closing quote. */
  readonly after: string;
}

/**
 * The first block of a response to an EventSource. It sets the reconnect delay, and discards the half-received event
 * that a browser has kept from the response before.
 */
export interface OpeningBlock {
  /** Id of the event that the answer continues after; empty if it starts from its beginning. */
  readonly lastEventId: string;
  /** Reconnect delay in milliseconds. */
  readonly retryMs: number;
}

/** An event whose `id` is its first line: TanStack AI takes an id for that of the next data. */
export interface IdFirstEvent extends EventMessage {
  readonly idFirst?: boolean;
}

export type OutgoingEvent = IdFirstEvent | LongTextEvent | OpeningBlock;

/** The source of the events of one response. */
export interface EventFeed<T> {
  /** Waits for the next item. One call at a time. */
  next(): Promise<T>;
  /** Detaches. Idempotent; a pending `next` may stay unsettled. */
  close(): void;
  /** Returns the events of an item, in order. */
  encode(item: T): readonly OutgoingEvent[];
  /** Returns true if no item follows this one. */
  isLast(item: T): boolean;
  /** Returns true if the response breaks off after this last item, so that nobody takes a cut answer for a whole one. */
  breaksOff?(item: T): boolean;
  /** Returns what is written after a silence, in place of a comment. */
  heartbeat?(): EventMessage;
  /** Returns true if a client that is disconnected now resumes on another replica by itself. */
  canResumeElsewhere?(): boolean;
  /**
   * Returns true if the client, once disconnected, comes back by itself for the rest, to this replica or to another one.
   * Its response may then end at any item.
   */
  canReconnect?(): boolean;
  /** True if a response that ends before its last item breaks off: its client takes a clean end for the end of all. */
  readonly breaksOffEarly?: boolean;
}
