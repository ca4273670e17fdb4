import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  createErrorFormatter,
  IdempotencyHeaders,
  LastEventId,
  questionBody,
  questionFromBody,
  ResumeHeaders,
  Ticket,
  TicketQuery,
} from '../chat-request.ts';
import {
  API_ERRORS,
  BODY_ERRORS,
  emptyResponse,
  errorResponses,
  jsonResponse,
  KEY_OR_TICKET,
  streamResponse,
} from '../responses.ts';
import { acceptsEvents, parseLastEventId, readFromStart, readOrAskToReconnect, resume } from '../resume.ts';
import { streamUrl } from '../sse-events.ts';
import { startStream } from '../start-stream.ts';

export interface StreamRoutesOptions {
  /** Longest time in milliseconds that an answer may take. */
  longestAnswerMs(): number;
}

const StreamParams = Type.Object({ id: Type.String({ description: 'Id of the stream' }) });

const StartedStream = Type.Object({
  id: Type.String({ description: 'Id of the stream' }),
  url: Type.String({
    description: 'Reads the stream; `DELETE` stops it. Carries a ticket if keys are configured.',
  }),
  expiresAt: Type.String({ format: 'date-time', description: 'Latest time at which the stream expires' }),
});

/** A stream as a resource: start it, read it, stop it. */
const streams: FastifyPluginAsyncTypebox<StreamRoutesOptions> = async (fastify, { longestAnswerMs }) => {
  const { config } = fastify;

  const find = async (id: string, { identity }: FastifyRequest, reply: FastifyReply) => {
    const stream = await fastify.streams.find(id, identity);
    if (stream) return stream;
    await fastify.limits.countGuess(identity, reply);
    throw fastify.httpErrors.notFound('This stream does not exist or has expired.');
  };

  const stop = async (id: string, request: FastifyRequest, reply: FastifyReply) => {
    await (await find(id, request, reply)).stop();
    return reply.code(204).send();
  };

  fastify.post(
    '/streams',
    {
      config: { access: 'ask' },
      schemaErrorFormatter: createErrorFormatter(fastify),
      schema: {
        tags: ['Streams'],
        summary: 'Start an answer and get the URL that reads it',
        security: KEY_OR_TICKET,
        querystring: TicketQuery,
        body: questionBody(config.limits.messages),
        headers: IdempotencyHeaders,
        response: {
          201: {
            ...jsonResponse(StartedStream, 'The answer has started, or was already started with this idempotency key.'),
            headers: { Location: { type: 'string', description: 'The same as `url`' } },
          },
          ...errorResponses(...BODY_ERRORS, ...API_ERRORS, 404, 409),
        },
      },
    },
    async (request, reply) => {
      const key = request.headers['idempotency-key'];
      const stream = await startStream(request, questionFromBody(request.body), { key, resumable: true });
      request.dropBody();
      const url = streamUrl(fastify, stream);
      const expiresAt = new Date(Date.now() + longestAnswerMs() + config.streams.ttlMs).toISOString();
      return reply.code(201).header('location', url).send({ id: stream.id, url, expiresAt });
    },
  );

  fastify.get(
    '/streams/:id',
    {
      config: { access: 'read', refusesInBand: true },
      onRequest: acceptsEvents,
      schema: {
        tags: ['Streams'],
        summary: 'Read a stream from its start, or from a `Last-Event-ID`',
        description:
          'If the stream store is unavailable, an EventSource gets 200 with only the opening block, so that it reconnects.',
        security: KEY_OR_TICKET,
        params: StreamParams,
        querystring: Type.Object({ lastEventId: LastEventId, ticket: Ticket }, { additionalProperties: false }),
        headers: ResumeHeaders,
        response: {
          200: streamResponse(),
          204: emptyResponse('The terminal event was already delivered. A browser stops reconnecting.'),
          ...errorResponses(...API_ERRORS, 404, 406),
        },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const point = parseLastEventId(fastify, request);
      if (!point) {
        return readOrAskToReconnect(request, reply, async () =>
          readFromStart(fastify, await find(id, request, reply), reply),
        );
      }
      if (point.stream === id) return resume(fastify, point, request, reply);
      throw fastify.httpErrors.badRequest('Last-Event-ID belongs to another stream.');
    },
  );

  await fastify.register(async (beacons) => {
    // `navigator.sendBeacon` chooses the content type, and the body means nothing.
    beacons.addHook('onRequest', async ({ raw }) => {
      delete raw.headers['content-type'];
    });
    beacons.removeAllContentTypeParsers();
    beacons.addContentTypeParser('*', (_, payload, done) => {
      payload.resume();
      done(null);
    });
    const handler = (request: FastifyRequest, reply: FastifyReply) =>
      stop((request.params as { id: string }).id, request, reply);
    const options = (summary: string) =>
      ({
        config: { access: 'read' },
        schema: {
          tags: ['Streams'],
          summary,
          description: 'Readers receive `end` with `finishReason: "stopped"`. Idempotent. The body is ignored.',
          security: KEY_OR_TICKET,
          params: StreamParams,
          response: {
            204: emptyResponse('The producer was asked to end the answer.'),
            ...errorResponses(...API_ERRORS, 404),
          },
        },
      }) as const;
    beacons.delete('/streams/:id', options('Stop an answer'), handler);
    beacons.post('/streams/:id/stop', options('Stop an answer with `navigator.sendBeacon`'), handler);
  });
};

export default streams;
