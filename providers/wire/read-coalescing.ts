import type { Socket } from 'node:net';

/** How often one connection is read. */
export interface ReadPace {
  /** Monotonic milliseconds. */
  now(): number;
  /** Least milliseconds between two reads of one connection, at this moment; 0 for none. */
  frameMs(): number;
  /** Calls `then` after a frame. It cannot be called off. */
  afterFrame(then: () => void): void;
}

/** Bytes that were worth their read: to wait for more would only make a flood slower. TLS hands out 16 KB at most. */
const ENOUGH = 8 * 1024;

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
export function readInFrames(socket: Socket, pace: ReadPace): void {
  const { push, _read: read, write } = socket;
  let since = Number.NEGATIVE_INFINITY;
  let held = false;
  /** Whether more was wanted since: not of one whose reader is behind. */
  let asked = false;
  /** Bytes since it was last let go. */
  let taken = 0;

  socket.push = (chunk: Buffer | null) => {
    asked = false;
    const wantsMore = push.call(socket, chunk);
    if (chunk === null) return false;
    taken += chunk.length;
    const now = pace.now();
    const quick = now - since < pace.frameMs();
    if (!quick) since = now;
    if (taken >= ENOUGH || (held && isLast(chunk))) hold(setImmediate);
    else if (quick && !held && !isLast(chunk)) hold(pace.afterFrame);
    return wantsMore && !held;
  };

  socket._read = (size) => {
    asked = true;
    if (!held) read.call(socket, size);
  };

  socket.write = ((...args: Parameters<typeof write>) => {
    if (held) go();
    since = Number.NEGATIVE_INFINITY;
    return write.apply(socket, args);
  }) as typeof write;

  function hold(until: (then: () => void) => void): void {
    held = true;
    until(() => {
      if (held) go();
    });
  }

  function go(): void {
    held = false;
    taken = 0;
    since = pace.now();
    if (asked && !socket.destroyed) read.call(socket, socket.readableHighWaterMark);
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
