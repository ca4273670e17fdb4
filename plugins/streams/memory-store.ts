import type { Clock } from '../clock.ts';
import { createMemoryLog } from './memory-log.ts';
import { type Idempotency, KeyConflict, StoreFull, type StreamLog, type StreamStore } from './types.ts';

export interface MemoryStoreOptions {
  readonly clock: Clock;
  readonly highWaterMark: number;
  readonly flushMs: number;
  /** How long an ended stream stays readable, in milliseconds. */
  readonly ttlMs: number;
  /** Bound of all logs together, in bytes. */
  readonly maxTotalBytes: number;
  onEvicted(): void;
}

interface Kept {
  readonly log: StreamLog;
  readonly key: string | undefined;
  bytes: number;
  expiresAt: number;
}

/** What a log without text takes. */
const EMPTY_BYTES = 1_024;
/** The most that a UTF-16 unit of a flat string takes. */
const UNIT_BYTES = 2;

/** Streams of one process. Past the bound the oldest ended ones go first, then new ones are refused. */
export function createMemoryStore(options: MemoryStoreOptions): StreamStore {
  const { clock, ttlMs, maxTotalBytes } = options;
  const streams = new Map<string, Kept>();
  const keys = new Map<string, { id: string; fingerprint: string }>();
  /** In the order in which they ended, which is the order in which they expire. */
  const ended = new Map<string, Kept>();
  let totalBytes = 0;
  let cancelExpiry: (() => void) | undefined;

  const grow = (kept: Kept, bytes: number) => {
    kept.bytes += bytes;
    totalBytes += bytes;
    while (totalBytes > maxTotalBytes && ended.size > 0) {
      forget(ended.values().next().value as Kept);
      options.onEvicted();
    }
  };

  const forget = (kept: Kept) => {
    const { id } = kept.log.info;
    streams.delete(id);
    ended.delete(id);
    if (kept.key !== undefined) keys.delete(kept.key);
    totalBytes -= kept.bytes;
  };

  /** One timer for all of them: it stands for the one that expires first. */
  const expire = () => {
    cancelExpiry = undefined;
    for (const kept of ended.values()) {
      const remaining = kept.expiresAt - clock.now();
      if (remaining > 0) {
        cancelExpiry = clock.after(remaining, expire);
        return;
      }
      forget(kept);
    }
  };

  const byKey = ({ key, fingerprint }: Idempotency): StreamLog | undefined => {
    const existing = keys.get(key);
    if (existing !== undefined && existing.fingerprint !== fingerprint) throw new KeyConflict();
    return existing && streams.get(existing.id)?.log;
  };

  return {
    async create(info, idempotency) {
      const existing = idempotency && byKey(idempotency);
      if (existing) return { log: existing, created: false };
      if (totalBytes + EMPTY_BYTES > maxTotalBytes && ended.size === 0) throw new StoreFull();
      const log = createMemoryLog(info, {
        ...options,
        onGrown: (units) => grow(kept, units * UNIT_BYTES),
        onEnded() {
          kept.expiresAt = clock.now() + ttlMs;
          ended.set(info.id, kept);
          grow(kept, 0);
          if (cancelExpiry === undefined) expire();
        },
      });
      const kept: Kept = { log, key: idempotency?.key, bytes: 0, expiresAt: Number.POSITIVE_INFINITY };
      streams.set(info.id, kept);
      if (idempotency) keys.set(idempotency.key, { id: info.id, fingerprint: idempotency.fingerprint });
      grow(kept, EMPTY_BYTES);
      return { log, created: true };
    },
    async openByKey(idempotency) {
      return byKey(idempotency);
    },
    async open(id) {
      return streams.get(id)?.log;
    },
    async close() {
      cancelExpiry?.();
      streams.clear();
      keys.clear();
      ended.clear();
      totalBytes = 0;
    },
  };
}
