import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import { AskBody, AskQuery, questionFromBody, questionFromQuery } from '../chat-request.ts';
import { acceptsEvents, isEventSource, parseLastEventId, readFromStart, resume } from '../resume.ts';
import { type ErrorPayload, errorEvent } from '../sse-events.ts';

/** Ask and read the answer in one request: GET for a plain EventSource, POST for `fetch`. */
const ask: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.get(
    '/ask/stream',
    { config: { access: 'ask' }, schema: { querystring: AskQuery }, onRequest: acceptsEvents },
    async (request, reply) => {
      const point = parseLastEventId(fastify, request);
      if (point) return resume(fastify, point, request, reply);
      if (request.identity.resumeOnly) throw fastify.httpErrors.unauthorized('The time of this ticket is over.');
      if (isPrefetch(request)) return reply.code(204).send();
      if (isCrossSite(request)) throw fastify.httpErrors.forbidden('Another site may not ask without CORS.');
      const { identity } = request;
      // A ticket is good for one question: asking it again finds its stream.
      const key =
        identity.ticket === undefined ? (request.query.key ?? gatewayRetryKey(request)) : `ticket ${identity.ticket}`;
      try {
        await fastify.limits.countRequest(identity, reply);
        const options = { logger: request.log, identity, key, resumable: true };
        const stream = await fastify.streams.start(questionFromQuery(request.query), options);
        return await readFromStart(fastify, stream, reply);
      } catch (error) {
        if (identity.ticket !== undefined && (error as { statusCode?: number }).statusCode === 409) {
          throw fastify.httpErrors.unauthorized('This ticket was used for another question.');
        }
        const failure = temporaryError(error);
        if (!failure || !isEventSource(request)) throw error;
        return reply.stream([errorEvent(failure)]);
      }
    },
  );

  const posted = { config: { access: 'api' }, schema: { body: AskBody }, onRequest: acceptsEvents } as const;
  fastify.post('/ask/stream', posted, async (request, reply) => {
    const point = parseLastEventId(fastify, request);
    if (point) return resume(fastify, point, request, reply);
    const { resumable = false, ...body } = request.body;
    const question = questionFromBody(body);
    if (!question) throw fastify.httpErrors.badRequest('Send either question or messages.');
    const stream = await fastify.streams.start(question, {
      logger: request.log,
      identity: request.identity,
      resumable,
    });
    return readFromStart(fastify, stream, reply);
  });
};

/**
 * A gateway sends a GET a second time when a replica dies before its first byte, under the id that it
 * gave to the request: that is one question still.
 */
function gatewayRetryKey({ id, headers, server }: FastifyRequest): string | undefined {
  return server.config.trustProxy !== false && headers['x-request-id'] === id ? `request ${id}` : undefined;
}

/** An `<img>` on another site must not spend money. One whose Origin is listed has passed CORS already. */
function isCrossSite({ headers }: FastifyRequest): boolean {
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
function temporaryError(error: unknown): ErrorPayload | undefined {
  const { statusCode, message, retryAfterMs } = error as {
    statusCode?: number;
    message: string;
    retryAfterMs?: number;
  };
  if ((statusCode !== 503 && statusCode !== 429) || retryAfterMs === undefined) return undefined;
  const code = statusCode === 429 ? 'rate_limited' : 'overloaded';
  return { code, message, retryable: true, retryAfter: Math.ceil(retryAfterMs / 1000) };
}

export default ask;
