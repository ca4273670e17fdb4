import type { ContentPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import { createSegments } from './segments.ts';
import { type LogReader, partSize, type Slice, type Terminal } from './types.ts';

export interface LogOptions {
  /** Units that the writer may be ahead of the fastest reader. */
  readonly highWaterMark: number;
  /** Milliseconds between two slices of one reader, unless it is that far behind or at the end. */
  readonly flushMs: number;
  readonly clock: Clock;
}

/** The log of one generation: written once, read by many, each from a position of its own. */
export interface Log {
  /** Units appended so far; see `partSize`. */
  readonly length: number;
  readonly readers: number;
  /** Appends one part. Where it returns a promise, the writer waits for it before it goes on. */
  append(part: ContentPart): Promise<void> | undefined;
  /** The one terminal; what comes after it is ignored. */
  end(terminal: Terminal): void;
  /** Attaches a reader. `from` must be a position that was delivered, or 0. */
  read(from: number): LogReader;
  /** Called whenever a reader has attached or left. */
  onAudience(listener: () => void): void;
}

interface Reader {
  position: number;
  wake(): void;
}

/** Most units in one slice, so that a reader far behind is not handed the whole backlog at once. */
const MAX_SLICE = 65_536;

export function createMemoryLog({ highWaterMark, flushMs, clock }: LogOptions): Log {
  const segments = createSegments();
  const readers = new Set<Reader>();
  const maxSlice = Math.max(MAX_SLICE, highWaterMark);
  let terminal: Terminal | undefined;
  let audience: () => void = () => {};
  let releaseWriter: (() => void) | undefined;

  const isTooFarAhead = () => {
    let fastest = 0;
    for (const reader of readers) fastest = Math.max(fastest, reader.position);
    return readers.size > 0 && segments.length - fastest > highWaterMark;
  };

  const release = () => {
    if (releaseWriter === undefined || (terminal === undefined && isTooFarAhead())) return;
    releaseWriter();
    releaseWriter = undefined;
  };

  const take = (reader: Reader): Slice => {
    const from = reader.position;
    const parts = segments.slice(from, maxSlice);
    for (const part of parts) reader.position += partSize(part);
    if (terminal === undefined || reader.position < segments.length) return { from, parts };
    return { from, parts, terminal, ...(terminal.type === 'end' && { answer: segments.text() }) };
  };

  const read = (from: number): LogReader => {
    let resolveNext: ((slice: Slice) => void) | undefined;
    let cancelFlush: (() => void) | undefined;
    let lastTaken = Number.NEGATIVE_INFINITY;

    const deliver = () => {
      cancelFlush?.();
      cancelFlush = undefined;
      const resolve = resolveNext;
      resolveNext = undefined;
      lastTaken = clock.now();
      resolve?.(take(reader));
      release();
    };

    const reader: Reader = {
      position: from,
      wake() {
        const unread = segments.length - reader.position;
        if (resolveNext === undefined || (unread === 0 && terminal === undefined)) return;
        const pause = lastTaken + flushMs - clock.now();
        if (pause <= 0 || terminal !== undefined || unread >= highWaterMark) deliver();
        else cancelFlush ??= clock.after(pause, deliver);
      },
    };
    readers.add(reader);
    audience();

    return {
      next() {
        return new Promise((resolve) => {
          resolveNext = resolve;
          reader.wake();
        });
      },
      close() {
        if (!readers.delete(reader)) return;
        cancelFlush?.();
        release();
        audience();
      },
    };
  };

  return {
    get length() {
      return segments.length;
    },
    get readers() {
      return readers.size;
    },
    append(part) {
      if (terminal !== undefined) return undefined;
      segments.append(part);
      for (const reader of readers) reader.wake();
      if (!isTooFarAhead()) return undefined;
      return new Promise((resolve) => {
        releaseWriter = resolve;
      });
    },
    end(value) {
      if (terminal !== undefined) return;
      terminal = value;
      segments.seal();
      for (const reader of readers) reader.wake();
      release();
    },
    read,
    onAudience(listener) {
      audience = listener;
    },
  };
}
