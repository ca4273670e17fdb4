import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AskHeaders, createErrorFormatter, ResumeHeaders, TicketQuery } from '../chat-request.ts';
import { API_ERRORS, BODY_ERRORS, emptyResponse, errorResponses, KEY_OR_TICKET, sseResponse } from '../responses.ts';
import { startStream } from '../start-stream.ts';
import { contextOf } from './earlier-steps.ts';
import { type ChunkPoint, parseChunkPoint, readChunks, replay, unknownChunk } from './replay.ts';
import { toQuestion } from './request.ts';
import { ReplayParams, ReplayQuery, uiBody } from './schema.ts';

const STREAM_ID = /^[A-Za-z0-9_-]{16,64}$/;

const ENDED = emptyResponse('No answer of this conversation is running, or nothing follows the given place.');

/** The UI message stream of the Vercel AI SDK. `useChat` needs only the URL of this API. */
const ui: FastifyPluginAsyncTypebox = async (fastify) => {
  const { limits } = fastify.config;
  const chunks = {
    ...sseResponse('UiMessageChunk', { description: 'UI message stream', sentinel: '[DONE]' }),
    headers: {
      'X-Sluice-Stream': { type: 'string', description: 'Id of the stream' },
      'X-Vercel-AI-UI-Message-Stream': { type: 'string' },
      'X-Workflow-Run-Id': { type: 'string', description: 'Id of the stream, for `WorkflowChatTransport`' },
    },
  };

  fastify.post(
    '/ui/chat',
    {
      config: { access: 'ask' },
      bodyLimit: limits.chatBodyBytes,
      // A client that resumes may send any body.
      attachValidation: true,
      schemaErrorFormatter: createErrorFormatter(fastify),
      schema: {
        tags: ['Vercel AI SDK'],
        summary: 'Answer a conversation of `useChat` with its `DefaultChatTransport`',
        description:
          'With `Last-Event-ID`, the answer continues where the connection was cut, and the body is ignored. The generation ends when the client disconnects, unless `resumable` is true or there is an `Idempotency-Key`: with the key, a repeated request gets the same answer from its start.',
        security: KEY_OR_TICKET,
        querystring: TicketQuery,
        body: uiBody(limits.messages),
        headers: AskHeaders,
        response: { 200: chunks, 204: ENDED, ...errorResponses(...BODY_ERRORS, ...API_ERRORS, 404, 409) },
      },
    },
    async (request, reply) => {
      const point = parseChunkPoint(request);
      if (point) return resume(point, request, reply);
      if (request.validationError) throw request.validationError;
      const { body } = request;
      const question = toQuestion(body, (message) => fastify.httpErrors.badRequest(message));
      const key = request.headers['idempotency-key'];
      const { resumable = key !== undefined, id: chat } = body;
      // After a tool has run, the page's last message continues.
      const stream = await startStream(request, question, {
        key,
        resumable,
        chat,
        context: contextOf(body.messages.at(-1)),
      });
      request.dropBody();
      return readChunks(stream, reply, 0);
    },
  );

  // `DefaultChatTransport` asks here after a reload, and `WorkflowChatTransport` after a cut, too.
  fastify.get(
    '/ui/chat/:id/stream',
    {
      config: { access: 'ask' },
      schema: {
        tags: ['Vercel AI SDK'],
        summary: 'Read the running answer of a conversation again, after a reload or a cut',
        description:
          'Without `startIndex` and `Last-Event-ID`: from its start. If it continues a message of the page, its earlier steps come first.',
        security: KEY_OR_TICKET,
        params: ReplayParams,
        querystring: ReplayQuery,
        headers: ResumeHeaders,
        response: { 200: chunks, 204: ENDED, ...errorResponses(...API_ERRORS) },
      },
    },
    async (request, reply) => {
      const point = parseChunkPoint(request);
      if (point) return resume(point, request, reply);
      const { params, query, identity } = request;
      const { startIndex } = query;
      const stream =
        (await fastify.streams.findByChat(params.id, identity)) ??
        (STREAM_ID.test(params.id) ? await fastify.streams.find(params.id, identity) : undefined);
      if (stream === undefined) return reply.code(204).send();
      if (startIndex === undefined) return replay(stream, reply);
      return readChunks(stream, reply, Number(startIndex));
    },
  );

  async function resume(
    { stream: id, chunks: after }: ChunkPoint,
    request: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    const count = (outcome: string) => fastify.metrics.resumes.inc({ outcome });
    if (after === 'end') {
      count('ended');
      return reply.code(204).send();
    }
    const stream = await fastify.streams.find(id, request.identity);
    count(stream ? 'hit' : 'unknown');
    if (stream) return readChunks(stream, reply, after);
    // A guess counts against the limits. Of POST, the request was counted.
    if (request.method !== 'POST') await fastify.limits.countGuess(request.identity, reply);
    return reply.stream([unknownChunk(id)]);
  }
};

export default ui;
