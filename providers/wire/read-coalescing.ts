import type { Socket } from 'node:net';

/** How often one connection is read. */
export interface ReadIntervals {
  /** Monotonic milliseconds. */
  now(): number;
  /** Least milliseconds between two reads of one connection, at this moment; 0 for none. */
  intervalMs(): number;
  /** Calls `then` after a frame. It cannot be called off. */
  afterInterval(then: () => void): void;
}

/** Bytes that were worth their read: to wait for more would only make a flood slower. TLS hands out 16 KB at most. */
const MAX_COALESCED_BYTES = 8 * 1024;

/**
 * Reads a connection that is quicker than the frames once a frame. What a model sent in the meantime
 * is then one read, one parse and one write to each reader in place of many. A flood is read on in
 * the next turn of the event loop: not two megabytes of it in one, as libuv would.
 *
 * A slower connection is read as ever: only one that had data before its last frame was over is
 * held, and a new request ends that.
 *
 * It works through the contract of Readable: when `push` says that it is enough, the socket rests
 * until `_read`, which may answer when it likes.
 */
export function coalesceReads(socket: Socket, intervals: ReadIntervals): void {
  const { push, _read: read, write } = socket;
  let since = Number.NEGATIVE_INFINITY;
  let isPaused = false;
  /** Whether more was wanted since: not of one whose reader is behind. */
  let wantsMore = false;
  /** Bytes since it was last let go. */
  let bytesRead = 0;

  socket.push = (chunk: Buffer | null) => {
    wantsMore = false;
    const hasRoom = push.call(socket, chunk);
    if (chunk === null) return false;
    bytesRead += chunk.length;
    const now = intervals.now();
    const quick = now - since < intervals.intervalMs();
    if (!quick) since = now;
    if (bytesRead >= MAX_COALESCED_BYTES || (isPaused && isLast(chunk))) pause(setImmediate);
    else if (quick && !isPaused && !isLast(chunk)) pause(intervals.afterInterval);
    return hasRoom && !isPaused;
  };

  socket._read = (size) => {
    wantsMore = true;
    if (!isPaused) read.call(socket, size);
  };

  socket.write = ((...args: Parameters<typeof write>) => {
    if (isPaused) resume();
    since = Number.NEGATIVE_INFINITY;
    return write.apply(socket, args);
  }) as typeof write;

  function pause(until: (then: () => void) => void): void {
    isPaused = true;
    until(() => {
      if (isPaused) resume();
    });
  }

  function resume(): void {
    isPaused = false;
    bytesRead = 0;
    since = intervals.now();
    if (wantsMore && !socket.destroyed) read.call(socket, socket.readableHighWaterMark);
  }
}

/**
 * Whether it ends as a chunked response does. Its connection is read on, so that the next request is
 * not given to one that the provider has closed meanwhile. Of one that looks so by chance a frame is missed.
 */
function isLast(chunk: Buffer): boolean {
  const end = chunk.length - 5;
  return chunk[end] === 0x30 && chunk[end + 1] === 0x0d && chunk[end + 3] === 0x0d;
}
