import type { Clock } from '../clock.ts';
import { partSize } from './part.ts';
import { createSegments } from './segments.ts';
import {
  type Audience,
  type LogReader,
  PositionUnknown,
  type Slice,
  type StreamInfo,
  type StreamLog,
  type Terminal,
} from './types.ts';

export interface MemoryLogOptions {
  /** Units that the producer may be ahead of the fastest reader. */
  readonly highWaterMark: number;
  /** Milliseconds between two slices of one reader, unless it is that far behind or at the end. */
  readonly flushMs: number;
  readonly clock: Clock;
  /** Called after an append, with the units it added. */
  onGrown(units: number): void;
  onEnded(): void;
}

interface Reader {
  position: number;
  wake(): void;
}

/** Most units in one slice, so that a reader far behind is not handed the whole backlog at once. */
const MAX_SLICE = 65_536;

/** A log in this process. Readers are woken by it, and set no timer while they keep up. */
export function createMemoryLog(info: StreamInfo, options: MemoryLogOptions): StreamLog {
  const { highWaterMark, flushMs, clock } = options;
  const segments = createSegments();
  const readers = new Set<Reader>();
  const maxSlice = Math.max(MAX_SLICE, highWaterMark);
  let terminal: Terminal | undefined;
  let audience: Audience | undefined;
  let releaseProducer: (() => void) | undefined;

  const isTooFarAhead = () => {
    let fastest = 0;
    for (const reader of readers) fastest = Math.max(fastest, reader.position);
    return readers.size > 0 && segments.length - fastest > highWaterMark;
  };

  const release = () => {
    if (releaseProducer === undefined || (terminal === undefined && isTooFarAhead())) return;
    releaseProducer();
    releaseProducer = undefined;
  };

  const take = (reader: Reader): Slice => {
    const parts = segments.slice(reader.position, maxSlice).map((part) => {
      reader.position += partSize(part);
      return { part, position: reader.position };
    });
    if (terminal === undefined || reader.position < segments.length) return { parts };
    return { parts, terminal, ...(terminal.type === 'end' && { answer: segments.text() }) };
  };

  const attach = (from: number): LogReader => {
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
    audience?.onReaders(readers.size);

    return {
      next() {
        return new Promise((resolve) => {
          resolveNext = resolve;
          reader.wake();
        });
      },
      close() {
        if (!readers.delete(reader)) return;
        resolveNext = undefined;
        cancelFlush?.();
        release();
        audience?.onReaders(readers.size);
      },
    };
  };

  return {
    info,
    get length() {
      return segments.length;
    },
    attend(value) {
      audience = value;
    },
    append(part) {
      if (terminal !== undefined) return undefined;
      segments.append(part);
      options.onGrown(partSize(part));
      for (const reader of readers) reader.wake();
      if (!isTooFarAhead()) return undefined;
      return new Promise((resolve) => {
        releaseProducer = resolve;
      });
    },
    end(value) {
      if (terminal !== undefined) return;
      terminal = value;
      audience = undefined;
      segments.seal();
      for (const reader of readers) reader.wake();
      release();
      options.onEnded();
    },
    async read(from) {
      if (from > segments.length) throw new PositionUnknown();
      return attach(from);
    },
    async stop() {
      audience?.onStop();
    },
  };
}
