import type { FastifyInstance } from 'fastify';
import type { Identity } from '../auth/identity.ts';
import type { Limits } from '../limits/index.ts';
import type { Metrics } from '../metrics/index.ts';
import { REVOKED } from './terminals.ts';
import { type EndableReader, type LogReader, PositionUnknown, type ReadableLog, type Slice } from './types.ts';

export interface ReadersOptions {
  readonly limits: Pick<Limits, 'claimReader'>;
  readonly metrics: Metrics;
  readonly apiError: FastifyInstance['apiError'];
  /** Most readers of one stream in this process. */
  readonly maxPerStream: number;
}

/** `Retry-After` in milliseconds if a stream has too many readers. */
const RETRY_MS = 2_000;

/**
 * Attaches readers to logs, and bounds their number: for each stream, and by the limits of the caller. A reader ends with
 * the credential of its caller. Returns undefined for a position that does not exist.
 */
export type AttachReader = <S extends Slice>(
  { info }: ReadableLog,
  identity: Identity,
  attach: () => Promise<EndableReader<S>>,
) => Promise<LogReader<S> | undefined>;

export function createReaders({ limits, metrics, apiError, maxPerStream }: ReadersOptions): AttachReader {
  const byStream = new Map<string, number>();

  /** Counts a reader. The returned function discounts it; idempotent. */
  function admit(id: string, identity: Identity): () => void {
    const count = byStream.get(id) ?? 0;
    if (count >= maxPerStream) {
      metrics.refusals.inc({ reason: 'readers' });
      const message = 'Too many readers of this stream are connected; retry later.';
      throw apiError({ status: 503, code: 'overloaded', message, retryAfterMs: RETRY_MS });
    }
    const release = limits.claimReader(identity);
    byStream.set(id, count + 1);
    metrics.readers.inc();
    let isOpen = true;
    return () => {
      if (!isOpen) return;
      isOpen = false;
      release();
      metrics.readers.dec();
      const rest = (byStream.get(id) ?? 0) - 1;
      if (rest > 0) byStream.set(id, rest);
      else byStream.delete(id);
    };
  }

  return async ({ info }, identity, attach) => {
    const release = admit(info.id, identity);
    try {
      const reader = await attach();
      const removeListener = identity.credential?.onRevoked(() => reader.end(REVOKED));
      return {
        next: () => reader.next(),
        close() {
          release();
          removeListener?.();
          reader.close();
        },
      };
    } catch (error) {
      release();
      if (error instanceof PositionUnknown) return undefined;
      throw error;
    }
  };
}

/**
 * Attaches a reader to a log that reaches a later position. The log stays in use while both are looked at.
 * @throws PositionUnknown if one of the positions does not exist
 */
export async function readReaching(log: ReadableLog, position: number, reaches: number): Promise<EndableReader> {
  if (reaches <= position) return log.read(position);
  const later = await log.read(reaches);
  try {
    return await log.read(position);
  } finally {
    later.close();
  }
}
