import { createHash } from 'node:crypto';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import {
  AskHeaders,
  AskQuery,
  askBody,
  createErrorFormatter,
  questionFromBody,
  questionFromQuery,
  ResumeHeaders,
  TicketQuery,
} from '../chat-request.ts';
import { isPageElement } from '../page-element.ts';
import { API_ERRORS, BODY_ERRORS, emptyResponse, errorResponses, KEY_OR_TICKET, streamResponse } from '../responses.ts';
import { acceptsEvents, isEventSource, parseLastEventId, readFromStart, resume } from '../resume.ts';
import { type ErrorPayload, errorEvent, openingBlock } from '../sse-events.ts';
import { startStream } from '../start-stream.ts';

/** Asks and reads the answer in one request: GET for an EventSource, POST for `fetch`. */
const ask: FastifyPluginAsyncTypebox = async (fastify) => {
  const success = {
    200: streamResponse(),
    204: emptyResponse('The terminal event was already delivered, so a browser stops reconnecting. Or a prefetch.'),
  };

  fastify.get(
    '/ask/stream',
    {
      config: { access: 'ask', countsLater: true, refusesInBand: true },
      onRequest: acceptsEvents,
      schema: {
        tags: ['Ask'],
        summary: 'Ask a question and read its answer with an EventSource',
        description:
          'With `Last-Event-ID`, the answer continues where the connection was cut, and no question is asked. An EventSource gives up for good on every status but 200, so a temporary refusal (429, 503) is sent to it as 200 with one `error` event. While the replica shuts down, it gets 200 with only the opening block, asks again, and another replica answers.',
        security: KEY_OR_TICKET,
        querystring: AskQuery,
        headers: ResumeHeaders,
        response: { ...success, ...errorResponses(...API_ERRORS, 404, 406, 409) },
      },
    },
    async (request, reply) => {
      const point = parseLastEventId(fastify, request);
      if (point) return resume(fastify, point, request, reply);
      const { identity } = request;
      if (isPrefetch(request)) return reply.code(204).send();
      if (isPageElement(request, fastify.config.corsOrigins)) {
        throw fastify.httpErrors.forbidden(
          'Elements and links of pages may not ask; use an EventSource, or fetch with Accept: text/event-stream.',
        );
      }
      const key = request.query.key ?? (identity.ticket === undefined ? gatewayRetryKey(request) : undefined);
      try {
        await fastify.limits.countRequest(identity, reply);
        const stream = await startStream(request, questionFromQuery(request.query), { key, resumable: true });
        return await readFromStart(fastify, stream, reply);
      } catch (error) {
        const failure = temporaryError(error);
        if (!failure || !isEventSource(request)) throw error;
        // Nothing has started. Without an event id, the EventSource asks again, and another replica answers.
        if (failure.isDraining) return reply.header('connection', 'close').stream([openingBlock()]);
        return reply.stream([openingBlock(), errorEvent(failure.payload)]);
      }
    },
  );

  fastify.post(
    '/ask/stream',
    {
      config: { access: 'ask' },
      onRequest: acceptsEvents,
      // A client that resumes may send any body.
      attachValidation: true,
      schemaErrorFormatter: createErrorFormatter(fastify),
      schema: {
        tags: ['Ask'],
        summary: 'Ask a question or continue a conversation, and read the answer with `fetch`',
        description:
          'With `Last-Event-ID`, the answer continues where the connection was cut, and the body is ignored. The generation ends when the client disconnects, unless `resumable` is true or there is an `Idempotency-Key`: with the key, a repeated request gets the same answer.',
        security: KEY_OR_TICKET,
        querystring: TicketQuery,
        body: askBody(fastify.config.limits.messages),
        headers: AskHeaders,
        response: { ...success, ...errorResponses(...BODY_ERRORS, ...API_ERRORS, 404, 406, 409) },
      },
    },
    async (request, reply) => {
      const point = parseLastEventId(fastify, request);
      if (point) return resume(fastify, point, request, reply);
      if (request.validationError) throw request.validationError;
      const key = request.headers['idempotency-key'];
      const { resumable = key !== undefined, ...question } = request.body;
      const reconnects = request.body.resumable === true;
      const stream = await startStream(request, questionFromBody(question), { key, resumable });
      request.dropBody();
      // An idempotency key alone does not say that the client reconnects.
      return readFromStart(fastify, stream, reply, reconnects);
    },
  );
};

/**
 * Returns an idempotency key for a request that a gateway may repeat. If a replica dies before its first
 * byte, a gateway sends the GET again, under the request id that it chose. That is still one question. Some gateways
 * pass on the id of their caller, who may use it for several questions, so the URL belongs to the key.
 */
function gatewayRetryKey({ id, url, headers, server }: FastifyRequest): string | undefined {
  const { trustProxy } = server.config;
  if (trustProxy === false || trustProxy === 0 || headers['x-request-id'] !== id) return undefined;
  return `request ${id} ${createHash('sha256').update(url).digest('base64url')}`;
}

/** Returns true if the browser only expects that the page will be needed: that must not cost money. */
function isPrefetch({ headers }: FastifyRequest): boolean {
  return /prefetch/i.test(`${headers['sec-purpose'] ?? ''} ${headers.purpose ?? ''}`);
}

/**
 * Returns a refusal that passes by itself as the payload of an event. An EventSource gives up for good on any
 * status but 200 and cannot read a body. Its reconnect after the event gets 204.
 */
function temporaryError(error: unknown): { payload: ErrorPayload; isDraining: boolean } | undefined {
  const {
    statusCode,
    message,
    retryAfterMs,
    isDraining = false,
  } = error as {
    statusCode?: number;
    message: string;
    retryAfterMs?: number;
    isDraining?: boolean;
  };
  if ((statusCode !== 503 && statusCode !== 429) || retryAfterMs === undefined) return undefined;
  const code = statusCode === 429 ? 'rate_limited' : 'overloaded';
  const payload = { code, message, retryable: true, retryAfter: Math.ceil(retryAfterMs / 1000) };
  return { payload, isDraining };
}

export default ask;
