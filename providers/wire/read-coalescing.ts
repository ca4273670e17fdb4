import type { Socket } from 'node:net';

/** The read interval of upstream connections, and its clock. */
export interface ReadIntervals {
  /** Returns monotonic milliseconds. */
  now(): number;
  /** Returns the current minimum of milliseconds between two reads of one connection; 0 for no minimum. */
  intervalMs(): number;
  /** Calls `fn` after one read interval. Cannot be canceled. */
  afterInterval(fn: () => void): void;
}

/**
 * Bytes within one interval after which the connection is read again in the next turn of the event loop: a wait
 * would only slow down a fast connection. TLS delivers at most 16 KB per read.
 */
const MAX_COALESCED_BYTES = 8 * 1024;

/**
 * Reads after a request that never wait for an interval: headers, opening events and the first token usually arrive one
 * by one. On a busy core, a wait would delay the first token by an interval for each of them.
 */
const FIRST_READS = 4;

/**
 * Reads a connection at most once per read interval. The data that arrives during an interval is one read, one
 * parse and one write to each reader, instead of many.
 *
 * - A connection is paused only if data arrived before its last interval had passed. Slower connections are
 *   read without delay.
 * - A new request on the connection ends the pause, and its first reads do not wait.
 * - After `MAX_COALESCED_BYTES` the next read follows in the next turn of the event loop. libuv would read up
 *   to two megabytes in one turn.
 *
 * Relies on the contract of Readable: after `push` has returned false, the stream calls `_read` for more data,
 * and `_read` may deliver it at any later time.
 */
export function coalesceReads(socket: Socket, intervals: ReadIntervals): void {
  const { push, _read: read, write } = socket;
  let intervalStartedAt = Number.NEGATIVE_INFINITY;
  let isPaused = false;
  /** True if the stream has called `_read` since the last data: its consumer is not behind. */
  let isReadPending = false;
  /** Bytes since the last pause has ended. */
  let bytesRead = 0;
  /** Reads that do not wait for an interval. */
  let freeReads = 0;

  socket.push = (chunk: Buffer | null) => {
    isReadPending = false;
    const hasRoom = push.call(socket, chunk);
    if (chunk === null) return false;
    bytesRead += chunk.length;
    const isFree = freeReads > 0;
    if (isFree) freeReads -= 1;
    const now = intervals.now();
    const isWithinInterval = now - intervalStartedAt < intervals.intervalMs();
    if (!isWithinInterval) intervalStartedAt = now;
    if (bytesRead >= MAX_COALESCED_BYTES || (isPaused && endsResponse(chunk))) pause(setImmediate);
    else if (isWithinInterval && !isFree && !isPaused && !endsResponse(chunk)) pause(intervals.afterInterval);
    return hasRoom && !isPaused;
  };

  socket._read = (size) => {
    isReadPending = true;
    if (!isPaused) read.call(socket, size);
  };

  socket.write = ((...args: Parameters<typeof write>) => {
    if (isPaused) resume();
    freeReads = FIRST_READS;
    intervalStartedAt = Number.NEGATIVE_INFINITY;
    return write.apply(socket, args);
  }) as typeof write;

  /** Pauses the connection until `schedule` calls its callback, or until a new request. */
  function pause(schedule: (fn: () => void) => void): void {
    isPaused = true;
    schedule(() => {
      if (isPaused) resume();
    });
  }

  function resume(): void {
    isPaused = false;
    bytesRead = 0;
    intervalStartedAt = intervals.now();
    if (isReadPending && !socket.destroyed) read.call(socket, socket.readableHighWaterMark);
  }
}

/**
 * Returns true if a chunk ends like a chunked response. The connection is not paused for an interval, so that a
 * close by the provider is seen before the connection is used for the next request. A false positive only skips
 * one pause.
 */
function endsResponse(chunk: Buffer): boolean {
  const end = chunk.length - 5;
  return chunk[end] === 0x30 && chunk[end + 1] === 0x0d && chunk[end + 3] === 0x0d;
}
