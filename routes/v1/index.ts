import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import { IDEMPOTENCY_KEY_PATTERN } from '../chat-request.ts';
import { clientDisconnected, waitForFirstSlice } from '../disconnect.ts';
import { createEventFeed, type Reader, type Stream, type Terminal } from '../sse-events.ts';
import { chunkEncoder, createCompletionCollector } from './answer.ts';
import { toQuestion } from './request.ts';
import { ChatBody } from './schema.ts';

/** OpenAI's Chat Completions, so that its SDKs work unchanged, whichever provider answers. */
const v1: FastifyPluginAsyncTypebox = async (fastify) => {
  const { config } = fastify;

  /** A failure before anything was delivered is a status; the SDKs are told not to ask again by themselves. */
  const toApiError = ({ status, code, message, retryAfterMs }: Extract<Terminal, { type: 'error' }>) =>
    fastify.apiError({ status, code, message, retryAfterMs });

  fastify.post(
    '/v1/chat/completions',
    {
      config: { access: 'api' },
      bodyLimit: config.limits.chatBodyBytes,
      schema: {
        body: ChatBody,
        headers: Type.Object({ 'idempotency-key': Type.Optional(Type.String({ pattern: IDEMPOTENCY_KEY_PATTERN })) }),
      },
    },
    async (request, reply) => {
      const { body, log: logger, headers, identity } = request;
      const question = toQuestion(body, (message) => fastify.httpErrors.badRequest(message));
      const key = headers['idempotency-key'];
      // A key is for asking again after a cut, which has to find the answer still running.
      const resumable = body.resumable ?? key !== undefined;
      const stream = await fastify.streams.start(question, { logger, identity, key, resumable });
      const reader = await stream.read(0);
      if (reader === undefined) throw new Error('a log without a beginning');
      reply.header('x-sluice-stream', stream.id);
      if (body.stream !== true) return sendCompletion(stream, reader, reply);
      return sendChunks(stream, reader, reply, body.stream_options?.include_usage === true);
    },
  );

  /**
   * The status is held back until the model has begun, so that a refusal keeps its own; not longer
   * than a heartbeat, since a gateway must not see silence.
   */
  async function sendChunks(stream: Stream, reader: Reader, reply: FastifyReply, includeUsage: boolean) {
    const { first, source } = await waitForFirstSlice(
      reader,
      fastify.clock,
      config.streams.heartbeatMs,
      clientDisconnected(reply),
    );
    if (first?.terminal?.type === 'error' && first.parts.length === 0) {
      reader.close();
      throw toApiError(first.terminal);
    }
    const encode = chunkEncoder(stream, { includeUsage, failure: fastify.openAIError });
    return reply.stream([], createEventFeed(source, encode));
  }

  async function sendCompletion(stream: Stream, reader: Reader, reply: FastifyReply) {
    const answer = createCompletionCollector(stream);
    const collect = async () => {
      for (;;) {
        const slice = await reader.next();
        answer.add(slice);
        if (slice.terminal?.type === 'error') throw toApiError(slice.terminal);
        if (slice.terminal) return answer.completion(slice.terminal, slice.answer ?? '');
      }
    };
    try {
      // One race and not one a slice: each would be kept until the client has left.
      return (await Promise.race([collect(), clientDisconnected(reply)])) ?? reply.hijack();
    } finally {
      reader.close();
    }
  }

  const created = Math.floor(Date.now() / 1000);
  const modelOf = (id: string) => ({ id, object: 'model', created, owned_by: 'sluice' });

  const access = { config: { access: 'api' } } as const;

  fastify.get('/v1/models', access, async ({ identity }) => ({
    object: 'list',
    // A provider that is open to all has no list.
    data: fastify.llm.models
      .filter((name) => !name.endsWith('/*') && identity.models?.includes(name) !== false)
      .map(modelOf),
  }));

  fastify.get('/v1/models/*', access, async ({ identity, params }) => {
    const { name } = fastify.llm.route((params as { '*': string })['*']);
    if (identity.models?.includes(name) === false) throw fastify.httpErrors.notFound('There is no such model for you.');
    return modelOf(name);
  });
};

export default v1;
