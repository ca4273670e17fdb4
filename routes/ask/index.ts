import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import { type Failure, failureEvent } from '../events.ts';
import { AskBody, AskQuery, questionOfBody, questionOfQuery } from '../question.ts';
import { acceptsEvents, isEventSource, placeOf, readFromStart, resume } from '../reading.ts';

/** Ask and read the answer in one request: GET for a plain EventSource, POST for `fetch`. */
const ask: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.get(
    '/ask/stream',
    { schema: { querystring: AskQuery }, onRequest: acceptsEvents },
    async (request, reply) => {
      const place = placeOf(fastify, request);
      if (place) return resume(fastify, place, request, reply);
      if (isPrefetch(request)) return reply.code(204).send();
      if (isForeign(request)) throw fastify.httpErrors.forbidden('Another site may not ask without CORS.');
      const { key } = request.query;
      try {
        const options = { logger: request.log, key, resumable: true };
        const stream = await fastify.streams.start(questionOfQuery(request.query), options);
        return await readFromStart(fastify, stream, reply);
      } catch (error) {
        const failure = passing(error);
        if (!failure || !isEventSource(request)) throw error;
        return reply.stream([failureEvent(failure)]);
      }
    },
  );

  fastify.post('/ask/stream', { schema: { body: AskBody }, onRequest: acceptsEvents }, async (request, reply) => {
    const place = placeOf(fastify, request);
    if (place) return resume(fastify, place, request, reply);
    const { resumable = false, ...body } = request.body;
    const question = questionOfBody(body);
    if (!question) throw fastify.httpErrors.badRequest('Send either question or messages.');
    const stream = await fastify.streams.start(question, { logger: request.log, resumable });
    return readFromStart(fastify, stream, reply);
  });
};

/** An `<img>` on another site must not spend money. One whose Origin is listed has passed CORS already. */
function isForeign({ headers }: FastifyRequest): boolean {
  return headers['sec-fetch-site'] === 'cross-site' && headers.origin === undefined;
}

/** A browser that only guesses that the page will be wanted must not spend money. */
function isPrefetch({ headers }: FastifyRequest): boolean {
  return /prefetch/i.test(`${headers['sec-purpose'] ?? ''} ${headers.purpose ?? ''}`);
}

/**
 * A refusal that passes by itself. An EventSource gives up for good on any status but 200 and cannot
 * read a body, so it is told in band; its reconnect is then answered 204.
 */
function passing(error: unknown): Failure | undefined {
  const { statusCode, message, retryAfterMs } = error as {
    statusCode?: number;
    message: string;
    retryAfterMs?: number;
  };
  if (statusCode !== 503 || retryAfterMs === undefined) return undefined;
  return { code: 'overloaded', message, retryable: true, retryAfter: Math.ceil(retryAfterMs / 1000) };
}

export default ask;
