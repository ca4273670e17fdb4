import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import type { Stream } from '../../plugins/streams/api.ts';
import { createErrorFormatter, TicketQuery } from '../chat-request.ts';
import { API_ERRORS, BODY_ERRORS, emptyResponse, errorResponses, KEY_OR_TICKET, sseResponse } from '../responses.ts';
import { createEventFeed, streamUrl } from '../sse-events.ts';
import { startStream } from '../start-stream.ts';
import { chunkEncoder, openingChunks } from './chunks.ts';
import { toQuestion } from './request.ts';
import { ChatParams, uiBody } from './schema.ts';

/** The UI message stream of the Vercel AI SDK. `useChat` needs only the URL of this API. */
const ui: FastifyPluginAsyncTypebox = async (fastify) => {
  const { limits } = fastify.config;
  const chunks = {
    ...sseResponse('UiMessageChunk', { description: 'UI message stream', sentinel: '[DONE]' }),
    headers: {
      'X-Sluice-Stream': { type: 'string', description: 'Id of the stream' },
      'X-Vercel-AI-UI-Message-Stream': { type: 'string' },
    },
  };

  fastify.post(
    '/ui/chat',
    {
      config: { access: 'ask' },
      bodyLimit: limits.chatBodyBytes,
      schemaErrorFormatter: createErrorFormatter(fastify),
      schema: {
        tags: ['Vercel AI SDK'],
        summary: 'Answer a conversation of `useChat` with its `DefaultChatTransport`',
        security: KEY_OR_TICKET,
        querystring: TicketQuery,
        body: uiBody(limits.messages),
        response: { 200: chunks, ...errorResponses(...BODY_ERRORS, ...API_ERRORS, 404) },
      },
    },
    async (request, reply) => {
      const { body } = request;
      const question = toQuestion(body, (message) => fastify.httpErrors.badRequest(message));
      const { resumable = false, id: chat } = body;
      const stream = await startStream(request, question, { resumable, chat });
      request.dropBody();
      const last = body.messages.at(-1);
      // After a tool has run, the page's last message continues. A resumed answer is a new message.
      return read(stream, reply, last?.role === 'assistant' ? last.id : undefined);
    },
  );

  // `DefaultChatTransport` asks here after a reload.
  fastify.get(
    '/ui/chat/:id/stream',
    {
      config: { access: 'ask' },
      schema: {
        tags: ['Vercel AI SDK'],
        summary: 'Read the running answer of a conversation from its start, after a reload',
        security: KEY_OR_TICKET,
        params: ChatParams,
        querystring: TicketQuery,
        response: {
          200: chunks,
          204: emptyResponse('No answer of this conversation is running.'),
          ...errorResponses(...API_ERRORS),
        },
      },
    },
    async (request, reply) => {
      const stream = await fastify.streams.findByChat(request.params.id, request.identity);
      return stream ? read(stream, reply) : reply.code(204).send();
    },
  );

  async function read(stream: Stream, reply: FastifyReply, messageId = stream.id): Promise<FastifyReply> {
    const reader = await stream.read(0);
    if (reader === undefined) throw new Error('log without a beginning');
    reply.header('x-vercel-ai-ui-message-stream', 'v1').header('x-sluice-stream', stream.id);
    const opening = openingChunks(
      stream,
      { url: streamUrl(fastify, stream), stopUrl: streamUrl(fastify, stream, '/stop') },
      messageId,
    );
    return reply.stream(opening, createEventFeed(reader, chunkEncoder()));
  }
};

export default ui;
