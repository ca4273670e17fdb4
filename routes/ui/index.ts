import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import type { Stream } from '../../plugins/streams/api.ts';
import { createEventFeed, streamUrl } from '../sse-events.ts';
import { chunkEncoder, openingChunks } from './chunks.ts';
import { toQuestion } from './request.ts';
import { CHAT_ID, UiBody } from './schema.ts';

/** The Vercel AI SDK's UI message stream, so that `useChat` needs nothing but this URL. */
const ui: FastifyPluginAsyncTypebox = async (fastify) => {
  const bodyLimit = fastify.config.limits.chatBodyBytes;

  fastify.post(
    '/ui/chat',
    { config: { access: 'api' }, bodyLimit, schema: { body: UiBody } },
    async (request, reply) => {
      const { body, log: logger, identity } = request;
      const question = toQuestion(body, (message) => fastify.httpErrors.badRequest(message));
      const options = { logger, identity, resumable: body.resumable ?? false, chat: body.id };
      const stream = await fastify.streams.start(question, options);
      const last = body.messages.at(-1);
      // After a tool has run the page's own last message goes on. One that is resumed begins anew.
      return read(stream, reply, last?.role === 'assistant' ? last.id : undefined);
    },
  );

  // Where `DefaultChatTransport` looks for an answer that still runs, after a reload.
  fastify.get(
    '/ui/chat/:id/stream',
    { config: { access: 'api' }, schema: { params: Type.Object({ id: Type.String({ pattern: CHAT_ID }) }) } },
    async (request, reply) => {
      const stream = await fastify.streams.findByChat(request.params.id, request.identity);
      return stream ? read(stream, reply) : reply.code(204).send();
    },
  );

  async function read(stream: Stream, reply: FastifyReply, messageId = stream.id): Promise<FastifyReply> {
    const reader = await stream.read(0);
    if (reader === undefined) throw new Error('a log without a beginning');
    reply.header('x-vercel-ai-ui-message-stream', 'v1').header('x-sluice-stream', stream.id);
    const opening = openingChunks(
      stream,
      { url: streamUrl(fastify, stream), stopUrl: streamUrl(fastify, stream, '/stop') },
      messageId,
    );
    return reply.stream(opening, createEventFeed(reader, chunkEncoder(stream)));
  }
};

export default ui;
