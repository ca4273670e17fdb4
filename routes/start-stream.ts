import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { Question, Stream } from '../plugins/streams/api.ts';

/** Starts the answer of a question that came with a key, a token or a ticket. */

export interface StartStreamOptions {
  /** Idempotency key of the client. */
  readonly key?: string | undefined;
  /** True if the client can resume. */
  readonly resumable: boolean;
  /** The client's own id of the conversation. */
  readonly chat?: string | undefined;
  /** Kept with the stream; see `StartOptions` of the streams. */
  readonly context?: string | undefined;
}

/**
 * Starts one generation, or finds the stream of the idempotency key. A ticket without a key of the client is one
 * itself: it starts a question once, however often the page asks.
 * @throws what `streams.start` throws, and 401 for a ticket that has expired or was used for its questions
 */
export async function startStream(
  request: FastifyRequest,
  question: Question,
  { key: clientKey, ...options }: StartStreamOptions,
): Promise<Stream> {
  const { server: fastify, identity, log: logger, bodyClaim } = request;
  if (identity.resumeOnly) throw fastify.httpErrors.unauthorized('This ticket has expired; request a new one.');
  const key = clientKey ?? ticketKey(request, question);
  try {
    return await fastify.streams.start(question, { ...options, identity, logger, key, bodyClaim });
  } catch (error) {
    const { statusCode, isTicketUsed = false } = error as { statusCode?: number; isTicketUsed?: boolean };
    const isOtherQuestion = identity.ticket !== undefined && clientKey === undefined && statusCode === 409;
    if (!isTicketUsed && !isOtherQuestion) throw error;
    fastify.audit.credentialsRefused(request, { reason: 'used', owner: identity.owner });
    throw fastify.httpErrors.unauthorized('This ticket was used for another question; request a new one.');
  }
}

/**
 * Returns the idempotency key that a ticket stands for; undefined without a ticket. With a ticket for several questions,
 * a browser may repeat a GET by itself, so the same question is the same one; a repeated POST is another question.
 */
function ticketKey({ identity, method }: FastifyRequest, question: Question): string | undefined {
  if (identity.ticket === undefined) return undefined;
  const { nonce, questions } = identity.ticket;
  if (questions === 1) return `ticket ${nonce}`;
  if (method !== 'GET') return undefined;
  return `ticket ${nonce} ${createHash('sha256').update(JSON.stringify(question)).digest('base64url')}`;
}
