import type { FastifyInstance } from 'fastify';
import { KeyConflict, StoreFull } from './types.ts';

/** When to ask again after a refusal. */
const RETRY_AFTER_MS = 5_000;

const REASONS = {
  draining: 'The service is shutting down',
  full: 'Too many answers are running',
  saturated: 'Every provider of this model is busy',
  pressure: 'The service is overloaded',
  memory: 'Too many answers are kept',
  store: 'The store of streams cannot be reached',
};

export interface Refusals {
  /** A 503 that passes by itself, and its count. */
  overloaded(why: keyof typeof REASONS): Error;
  /** Every call of the store that fails is a refusal. */
  asked<T>(call: Promise<T>): Promise<T>;
}

/** Why a question is not taken, as what a client can act on. */
export function createRefusals(fastify: FastifyInstance): Refusals {
  const overloaded = (why: keyof typeof REASONS) => {
    fastify.metrics.refusals.inc({ reason: why });
    const message = `${REASONS[why]}; ask again later.`;
    return fastify.refusal({ status: 503, code: 'overloaded', message, retryAfterMs: RETRY_AFTER_MS });
  };

  const refusal = (error: unknown) => {
    if (error instanceof KeyConflict) return fastify.httpErrors.conflict('This key was used for another question.');
    if (error instanceof StoreFull) return overloaded('memory');
    if ((error as { statusCode?: number }).statusCode !== undefined) return error;
    fastify.log.warn({ err: error }, 'the store of streams cannot be asked');
    return overloaded('store');
  };

  return {
    overloaded,
    asked: (call) =>
      call.catch((error: unknown) => {
        throw refusal(error);
      }),
  };
}
