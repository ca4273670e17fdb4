import type { FastifyInstance } from 'fastify';
import { KeyConflict, StoreFull } from './types.ts';

/** When to ask again after a refusal. */
const RETRY_AFTER_MS = 5_000;

const MESSAGES = {
  draining: 'The service is shutting down',
  full: 'Too many answers are running',
  saturated: 'Every provider of this model is busy',
  pressure: 'The service is overloaded',
  memory: 'Too many answers are kept',
  store: 'The store of streams cannot be reached',
};

export interface StoreErrors {
  /** A 503 that passes by itself, and its count. */
  overloaded(why: keyof typeof MESSAGES): Error;
  /** Every call of the store that fails is a refusal. */
  mapStoreErrors<T>(call: Promise<T>): Promise<T>;
}

/** Why a question is not taken, as what a client can act on. */
export function createStoreErrors(fastify: FastifyInstance): StoreErrors {
  const overloaded = (why: keyof typeof MESSAGES) => {
    fastify.metrics.refusals.inc({ reason: why });
    const message = `${MESSAGES[why]}; ask again later.`;
    return fastify.apiError({ status: 503, code: 'overloaded', message, retryAfterMs: RETRY_AFTER_MS });
  };

  const toApiError = (error: unknown) => {
    if (error instanceof KeyConflict) return fastify.httpErrors.conflict('This key was used for another question.');
    if (error instanceof StoreFull) return overloaded('memory');
    if ((error as { statusCode?: number }).statusCode !== undefined) return error;
    fastify.log.warn({ err: error }, 'the store of streams cannot be asked');
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
