import type { EventMessage } from 'fastify';
import type {} from 'fastify-sse-v2';

/** Types of `plugins/sse` that routes may import. */

/** The source of the events of one response. */
export interface EventFeed<T> {
  /** Waits for the next item. One call at a time. */
  next(): Promise<T>;
  /** Detaches. Idempotent; a pending `next` may stay unsettled. */
  close(): void;
  /** Returns the events of an item, in order. */
  encode(item: T): readonly EventMessage[];
  /** Returns true if no item follows this one. */
  isLast(item: T): boolean;
  /** Returns true if a client that is disconnected now resumes on another replica by itself. */
  canResumeElsewhere?(): boolean;
}
