import type { EventMessage, FastifyBaseLogger } from 'fastify';
import type { Clock } from './clock.ts';

/** Where a response's events come from. */
export interface FrameSource<T> {
  /** Waits for the next item; one call at a time. */
  next(): Promise<T>;
  /** Detaches; a waiting `next` may stay unsettled. Idempotent. */
  close(): void;
  /** An item as events, in order. */
  encode(item: T): readonly EventMessage[];
  /** Whether nothing follows this item. */
  isLast(item: T): boolean;
}

export interface Frames extends AsyncIterableIterator<EventMessage> {
  /** Events and comments handed out so far. */
  readonly count: number;
  /** Whether the socket has not asked for more since it got the last event. */
  readonly stalled: boolean;
  /** Sends a comment if the client waits and nothing has been sent since then. */
  beat(silentSince: number): void;
  close(): void;
}

const HEARTBEAT: EventMessage = { comment: ' hb' };

/**
 * A response's events as the iterable that fastify-sse-v2 pulls, which it does only while the socket
 * takes more: so a heartbeat, too, never meets a client that does not read. It never throws, since
 * that would end the process.
 */
export function createFrames<T>(
  opening: readonly EventMessage[],
  source: FrameSource<T> | undefined,
  clock: Clock,
  log: FastifyBaseLogger,
): Frames {
  const queue = [...opening];
  let waiting: ((result: IteratorResult<EventMessage>) => void) | undefined;
  let pulling = false;
  let finished = source === undefined;
  let lastSent = clock.now();
  let count = 0;

  const settle = (message: EventMessage | undefined) => {
    const resolve = waiting;
    waiting = undefined;
    if (message === undefined) return resolve?.({ done: true, value: undefined });
    lastSent = clock.now();
    count += 1;
    resolve?.({ done: false, value: message });
  };

  const pull = async ({ next, encode, isLast }: FrameSource<T>) => {
    if (pulling) return;
    pulling = true;
    try {
      const item = await next();
      finished ||= isLast(item);
      for (const message of encode(item)) queue.push(message);
    } catch (error) {
      // The response ends without a last event, and a browser comes back for the rest.
      log.error({ err: error }, 'reading a stream failed');
      finished = true;
    }
    pulling = false;
    if (waiting !== undefined) advance();
  };

  const advance = () => {
    if (queue.length > 0 || finished || source === undefined) settle(queue.shift());
    else void pull(source);
  };

  const close = () => {
    source?.close();
    finished = true;
    queue.length = 0;
    settle(undefined);
  };

  return {
    get count() {
      return count;
    },
    next() {
      return new Promise((resolve) => {
        waiting = resolve;
        advance();
      });
    },
    async return() {
      close();
      return { done: true, value: undefined };
    },
    get stalled() {
      return waiting === undefined;
    },
    beat(silentSince) {
      if (waiting !== undefined && lastSent <= silentSince) settle(HEARTBEAT);
    },
    close,
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
