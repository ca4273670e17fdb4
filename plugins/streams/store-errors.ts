import type { FastifyBaseLogger, FastifyInstance } from 'fastify';
import type { Metrics } from '../metrics/index.ts';
import { FORMAT } from './redis/format.ts';
import { KeyConflict, NewerFormat, StoreFull } from './types.ts';

/** `Retry-After` of a refused question. */
const RETRY_AFTER_MS = 5_000;
/** The same while this replica is draining: another replica may answer immediately. */
const DRAINING_RETRY_AFTER_MS = 1_000;

/** Formats that are logged, once each. */
const MAX_LOGGED_FORMATS = 10;

const MESSAGES = {
  draining: 'The service is shutting down',
  full: 'Too many answers are running',
  saturated: 'Every provider of this model is busy',
  pressure: 'The service is overloaded',
  memory: 'Too many answers are stored',
  store: 'The stream store is unavailable',
  version: 'This stream belongs to a newer version of the service, which is being rolled out',
};

export interface StoreErrors {
  /** Creates a temporary 503 and counts it. */
  overloaded(reason: keyof typeof MESSAGES): Error;
  /** Maps failures of the store to errors that clients can act on: 409 or 503. */
  mapStoreErrors<T>(call: Promise<T>): Promise<T>;
}

export interface StoreErrorsOptions {
  readonly apiError: FastifyInstance['apiError'];
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
}

export function createStoreErrors({ apiError, metrics, log }: StoreErrorsOptions): StoreErrors {
  const overloaded = (reason: keyof typeof MESSAGES) => {
    metrics.refusals.inc({ reason });
    const message = `${MESSAGES[reason]}; retry later.`;
    const isDraining = reason === 'draining';
    const retryAfterMs = isDraining ? DRAINING_RETRY_AFTER_MS : RETRY_AFTER_MS;
    return apiError({ status: 503, code: 'overloaded', message, retryAfterMs, isDraining });
  };

  const loggedFormats = new Set<string>();
  const logFormat = ({ format }: NewerFormat) => {
    if (loggedFormats.has(format) || loggedFormats.size >= MAX_LOGGED_FORMATS) return;
    loggedFormats.add(format);
    log.warn({ format, known: FORMAT }, 'streams in redis have a newer format; this replica refuses them, upgrade it');
  };

  const toApiError = (error: unknown) => {
    if (error instanceof KeyConflict) {
      return apiError({ status: 409, code: 'conflict', message: 'This key was used for another question.' });
    }
    if (error instanceof StoreFull) return overloaded('memory');
    if (error instanceof NewerFormat) {
      logFormat(error);
      return overloaded('version');
    }
    if ((error as { statusCode?: number }).statusCode !== undefined) return error;
    log.warn({ err: error }, 'stream store unavailable; the request is refused');
    return overloaded('store');
  };

  return {
    overloaded,
    mapStoreErrors: (call) =>
      call.catch((error: unknown) => {
        throw toApiError(error);
      }),
  };
}
