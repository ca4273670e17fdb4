import type { FastifyInstance } from 'fastify';
import { KeyConflict, StoreFull } from './types.ts';

/** When to ask again after a refusal. */
const RETRY_AFTER_MS = 5_000;

export interface Refusals {
  /** 503, with the reason in words. */
  overloaded(why: string): Error;
  /** Every call of the store that fails is a refusal. */
  asked<T>(call: Promise<T>): Promise<T>;
}

/** What the store says, as what a client can act on. */
export function createRefusals(fastify: FastifyInstance): Refusals {
  const overloaded = (why: string) =>
    fastify.refusal({
      status: 503,
      code: 'overloaded',
      message: `${why}; ask again later.`,
      retryAfterMs: RETRY_AFTER_MS,
    });

  const refusal = (error: unknown) => {
    if (error instanceof KeyConflict) return fastify.httpErrors.conflict('This key was used for another question.');
    if (error instanceof StoreFull) return overloaded('Too many answers are kept');
    if ((error as { statusCode?: number }).statusCode !== undefined) return error;
    fastify.log.warn({ err: error }, 'the store of streams cannot be asked');
    return overloaded('The store of streams cannot be reached');
  };

  return {
    overloaded,
    asked: (call) =>
      call.catch((error: unknown) => {
        throw refusal(error);
      }),
  };
}
