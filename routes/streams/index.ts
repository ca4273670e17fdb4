import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { IDEMPOTENCY_KEY_PATTERN, LastEventId, Question, questionFromBody, Ticket } from '../chat-request.ts';
import { acceptsEvents, parseLastEventId, readFromStart, readOrAskToReconnect, resume } from '../resume.ts';
import { streamUrl } from '../sse-events.ts';

const StreamId = Type.Object({ id: Type.String() });
const Started = Type.Object({
  id: Type.String(),
  url: Type.String({ description: 'Reads the stream, and ends it with DELETE or /stop' }),
  expiresAt: Type.String({ format: 'date-time', description: 'It is gone by then at the latest' }),
});

/** A stream as a resource: start it, read it, stop it. */
const streams: FastifyPluginAsyncTypebox = async (fastify) => {
  const { config } = fastify;
  const longestAnswer = Math.max(config.deadlines.totalMs, ...config.models.map(({ totalMs = 0 }) => totalMs));

  const find = async (id: string, { identity }: FastifyRequest, reply: FastifyReply) => {
    const stream = await fastify.streams.find(id, identity);
    if (stream) return stream;
    await fastify.limits.countRequest(identity, reply);
    throw fastify.httpErrors.notFound('There is no such stream, or it is not kept any more.');
  };

  const stop = async (id: string, request: FastifyRequest, reply: FastifyReply) => {
    await (await find(id, request, reply)).stop();
    return reply.code(204).send();
  };

  fastify.post(
    '/streams',
    {
      config: { access: 'api' },
      schema: {
        body: Question,
        headers: Type.Object({ 'idempotency-key': Type.Optional(Type.String({ pattern: IDEMPOTENCY_KEY_PATTERN })) }),
        response: { 201: Started },
      },
    },
    async (request, reply) => {
      const question = questionFromBody(request.body);
      if (!question) throw fastify.httpErrors.badRequest('Send either question or messages.');
      const key = request.headers['idempotency-key'];
      const { log: logger, identity } = request;
      const stream = await fastify.streams.start(question, { logger, identity, key, resumable: true });
      const url = streamUrl(fastify, stream);
      const expiresAt = new Date(Date.now() + longestAnswer + config.streams.ttlMs).toISOString();
      return reply.code(201).header('location', url).send({ id: stream.id, url, expiresAt });
    },
  );

  const schema = { params: StreamId };

  fastify.get(
    '/streams/:id',
    {
      config: { access: 'read' },
      schema: {
        ...schema,
        querystring: Type.Object({ lastEventId: LastEventId, ticket: Ticket }, { additionalProperties: false }),
      },
      onRequest: acceptsEvents,
    },
    async (request, reply) => {
      const place = parseLastEventId(fastify, request);
      if (!place) {
        return readOrAskToReconnect(request, reply, async () =>
          readFromStart(fastify, await find(request.params.id, request, reply), reply),
        );
      }
      if (place.stream === request.params.id) return resume(fastify, place, request, reply);
      throw fastify.httpErrors.badRequest('Last-Event-ID belongs to another stream.');
    },
  );

  await fastify.register(async (beacons) => {
    // `navigator.sendBeacon` sends whatever type it likes, and what it sends does not matter.
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
    const options = { config: { access: 'read' }, schema } as const;
    beacons.delete('/streams/:id', options, handler);
    beacons.post('/streams/:id/stop', options, handler);
  });
};

export default streams;
