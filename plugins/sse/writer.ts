import type { ServerResponse } from 'node:http';
import type { EventMessage, FastifyBaseLogger } from 'fastify';
import type {} from 'fastify-sse-v2';
import { serializeSSEEvent } from 'fastify-sse-v2/lib/sse.js';
import type { Clock } from '../clock.ts';

/** Where a response's events come from. */
export interface EventFeed<T> {
  /** Waits for the next item; one call at a time. */
  next(): Promise<T>;
  /** Detaches; a waiting `next` may stay unsettled. Idempotent. */
  close(): void;
  /** An item as events, in order. */
  encode(item: T): readonly EventMessage[];
  /** Whether nothing follows this item. */
  isLast(item: T): boolean;
  /** Whether the client, when it is sent away now, finds the rest elsewhere by itself. */
  canResumeElsewhere?(): boolean;
}

/** Is told the milliseconds between two items, while the client takes them. */
interface IntervalObserver {
  observe(ms: number): void;
}

const HEARTBEAT: EventMessage = { comment: ' hb' };

/**
 * Writes a source's events to one response: one `write` an item, and no further item is asked for
 * while the socket takes no more. It never throws.
 */
export class SseWriter<T> {
  /** Events and comments written. */
  count = 0;
  readonly #raw: ServerResponse;
  readonly #source: EventFeed<T> | undefined;
  readonly #clock: Clock;
  readonly #log: FastifyBaseLogger;
  readonly #pace: IntervalObserver;
  #lastWrite = 0;
  /** When content was last written, while the client has taken all since; else 0. */
  #lastItem = 0;
  #over = false;

  constructor(
    raw: ServerResponse,
    source: EventFeed<T> | undefined,
    { clock, log, pace }: { clock: Clock; log: FastifyBaseLogger; pace: IntervalObserver },
  ) {
    this.#raw = raw;
    this.#source = source;
    this.#clock = clock;
    this.#log = log;
    this.#pace = pace;
  }

  /** Writes the first events, and follows the source until its last. */
  start(opening: readonly EventMessage[]): void {
    if (opening.length > 0) this.#write(opening);
    else this.#raw.flushHeaders();
    if (this.#source === undefined) this.#end();
    else this.#pull();
  }

  /** Sends a comment if nothing was written since then and the client is not behind. */
  sendHeartbeat(silentSince: number): void {
    if (this.#over || this.#raw.writableNeedDrain || this.#lastWrite > silentSince) return;
    this.#write([HEARTBEAT]);
  }

  /** Sends the client away with `farewell`, if it finds the rest elsewhere. */
  disconnect(farewell: EventMessage): void {
    if (this.#over || !this.#source?.canResumeElsewhere?.()) return;
    this.#write([farewell]);
    this.#end();
  }

  /** The response has closed, for whatever reason. */
  close(): void {
    this.#over = true;
    this.#source?.close();
  }

  readonly #pull = (): void => {
    if (!this.#over) this.#source?.next().then(this.#onItem, this.#onFault);
  };

  readonly #onItem = (item: T): void => {
    if (this.#over) return;
    try {
      const source = this.#source as EventFeed<T>;
      const flowing = this.#write(source.encode(item));
      if (this.#lastItem > 0) this.#pace.observe(this.#lastWrite - this.#lastItem);
      this.#lastItem = flowing ? this.#lastWrite : 0;
      if (source.isLast(item)) this.#end();
      else if (flowing) this.#pull();
      else this.#raw.once('drain', this.#pull);
    } catch (error) {
      this.#onFault(error);
    }
  };

  /** The response ends without a last event, and a browser comes back for the rest. */
  readonly #onFault = (error: unknown): void => {
    this.#log.error({ err: error }, 'reading a stream failed');
    this.#end();
  };

  #write(events: readonly EventMessage[]): boolean {
    let text = '';
    for (const event of events) text += serializeSSEEvent(event);
    this.count += events.length;
    this.#lastWrite = this.#clock.now();
    return this.#raw.write(text);
  }

  #end(): void {
    this.#over = true;
    this.#raw.end();
  }
}
