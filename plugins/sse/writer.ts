import type { ServerResponse } from 'node:http';
import type { FastifyBaseLogger } from 'fastify';
import type { Clock } from '../clock.ts';
import type { EventFeed, OutgoingEvent } from './api.ts';
import { HEARTBEAT, serializeEvent } from './bytes.ts';
import { longTextPieces } from './long-text.ts';

export interface SseWriterOptions {
  readonly clock: Clock;
  readonly log: FastifyBaseLogger;
  /** Observes the milliseconds between two items, while the client keeps up. */
  readonly intervals: { observe(ms: number): void };
}

/** Units of one piece of a long text, as a share of the high-water mark: most units have up to three bytes. */
const PIECES_PER_HIGH_WATER_MARK = 4;
const MIN_PIECE_UNITS = 1_024;

/** Time between the last item of a response that breaks off and the end of its connection. */
const BREAK_OFF_MS = 500;

/** Units of an item from which the next one is written in another turn of the event loop. */
const LONG_ITEM_UNITS = 4_096;

/**
 * Writes the events of a feed to one response: one `write` per item, several for a long text. It asks for the next item only
 * when the socket accepts more. Never throws.
 *
 * A backlog takes a turn of the event loop for each item. The system accepts megabytes for a client that reads fast, and
 * a socket reports each write as done before the event loop goes on: other responses would wait for all of it.
 */
export class SseWriter<T> {
  /** Number of events and comments written. */
  count = 0;
  /** True if the response was cut on purpose. */
  hasBrokenOff = false;
  readonly #raw: ServerResponse;
  readonly #feed: EventFeed<T> | undefined;
  readonly #options: SseWriterOptions;
  #lastWrite = 0;
  /** Time of the last item, or 0 if the client is behind. */
  #lastItem = 0;
  #isEnded = false;
  #cancelBreak = (): void => {};
  /** The rest of a long text that is being written. Nothing else may be written before its end. */
  #pieces: Generator<string> | undefined;

  constructor(raw: ServerResponse, feed: EventFeed<T> | undefined, options: SseWriterOptions) {
    this.#raw = raw;
    this.#feed = feed;
    this.#options = options;
  }

  /** Writes the first events, then follows the feed to its last item. */
  start(opening: readonly OutgoingEvent[]): void {
    if (opening.length > 0) this.#write(opening);
    else this.#raw.flushHeaders();
    if (this.#feed === undefined) this.#end();
    else this.#pull();
  }

  /** Writes a comment if nothing was written since `silentSince` and the client keeps up. */
  sendHeartbeat(silentSince: number): void {
    if (this.#isEnded || this.#pieces || this.#raw.writableNeedDrain || this.#lastWrite > silentSince) return;
    this.count += 1;
    this.#lastWrite = this.#options.clock.now();
    const event = this.#feed?.heartbeat?.();
    this.#raw.write(event === undefined ? HEARTBEAT : serializeEvent(event));
  }

  /** Ends the response if the client can resume on another replica. */
  disconnect(): void {
    if (this.#isEnded || this.#pieces || !this.#feed?.canResumeElsewhere?.()) return;
    this.#endEarly();
  }

  /** Ends the response behind the last item if its client reconnects by itself. Returns true if the response was ended. */
  rotate(): boolean {
    if (this.#isEnded || this.#pieces || !this.#feed?.canReconnect?.()) return false;
    this.#endEarly();
    return true;
  }

  /** Call when the response has closed, for any reason. */
  close(): void {
    this.#isEnded = true;
    this.#cancelBreak();
    this.#pieces = undefined;
    this.#feed?.close();
  }

  readonly #pull = (): void => {
    if (!this.#isEnded) this.#feed?.next().then(this.#onItem, this.#onError);
  };

  readonly #pullNextTurn = (): void => void setImmediate(this.#pull);

  readonly #onItem = (item: T): void => {
    if (this.#isEnded) return;
    try {
      const feed = this.#feed as EventFeed<T>;
      const { keepsUp, isLong } = this.#write(feed.encode(item));
      if (this.#lastItem > 0) this.#options.intervals.observe(this.#lastWrite - this.#lastItem);
      this.#lastItem = keepsUp ? this.#lastWrite : 0;
      if (this.#pieces) this.#writePieces();
      else if (feed.isLast(item)) feed.breaksOff?.(item) ? this.#breakOffLater() : this.#end();
      else if (!keepsUp) this.#raw.once('drain', isLong ? this.#pullNextTurn : this.#pull);
      else if (isLong) this.#pullNextTurn();
      else this.#pull();
    } catch (error) {
      this.#onError(error);
    }
  };

  /** Ends the response without a terminal event, so that a browser reconnects for the rest. */
  readonly #onError = (error: unknown): void => {
    this.#options.log.error({ err: error }, 'reading a stream failed; the response ends and the client may resume');
    this.#endEarly();
  };

  /** Writes the next pieces of a long text as long as the socket accepts more, and ends the response after the last. */
  readonly #writePieces = (): void => {
    const pieces = this.#pieces;
    if (pieces === undefined || this.#raw.destroyed) return;
    while (!this.#raw.writableNeedDrain) {
      const { value, done } = pieces.next();
      if (done) {
        this.#pieces = undefined;
        this.#end();
        return;
      }
      this.#raw.write(value);
    }
    this.#raw.once('drain', () => setImmediate(this.#writePieces));
  };

  #write(events: readonly OutgoingEvent[]): { keepsUp: boolean; isLong: boolean } {
    let text = '';
    for (const event of events) {
      if ('before' in event) this.#pieces = longTextPieces(event, this.#pieceUnits());
      else text += serializeEvent(event);
    }
    this.count += events.length;
    this.#lastWrite = this.#options.clock.now();
    return { keepsUp: text === '' || this.#raw.write(text), isLong: text.length >= LONG_ITEM_UNITS };
  }

  #pieceUnits(): number {
    return Math.max(MIN_PIECE_UNITS, Math.floor(this.#raw.writableHighWaterMark / PIECES_PER_HIGH_WATER_MARK));
  }

  #end(): void {
    this.#isEnded = true;
    this.#raw.end();
  }

  /** Ends a response that has not reached its last item. */
  #endEarly(): void {
    if (this.#feed?.breaksOffEarly) this.#breakOff();
    else this.#end();
  }

  /**
   * Breaks off when the client has had time to read the last item. Clients that take it as an error close the connection
   * themselves. Of a connection that closes at once, `fetch` discards what it has not handed out yet: the error.
   */
  #breakOffLater(): void {
    if (this.count === 0) {
      this.#breakOff();
      return;
    }
    this.#isEnded = true;
    this.hasBrokenOff = true;
    this.#cancelBreak = this.#options.clock.after(BREAK_OFF_MS, () => this.#breakOff());
  }

  /** Closes the connection after what is written, without the last chunk: clients see that the response is cut. */
  #breakOff(): void {
    this.#isEnded = true;
    this.hasBrokenOff = true;
    const { socket } = this.#raw;
    // A pipelined response has no socket yet. An injected request has no connection that could be cut.
    if (socket === null) this.#raw.destroy();
    else if (typeof socket.destroySoon === 'function') socket.destroySoon();
    else this.#raw.end();
  }
}
