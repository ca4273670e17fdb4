import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import type { LogReader, Stream, Terminal } from '../../plugins/streams/api.ts';
import { IDEMPOTENCY_KEY_PATTERN } from '../chat-request.ts';
import { clientDisconnected, waitForFirstSlice } from '../disconnect.ts';
import { createEventFeed } from '../sse-events.ts';
import { chunkEncoder, createCompletionCollector } from './answer.ts';
import { toOpenAIError, useOpenAIErrors } from './errors.ts';
import { toQuestion } from './request.ts';
import { ChatBody } from './schema.ts';

/** OpenAI's Chat Completions API for any provider. Register with the prefix `/v1`. */
const v1: FastifyPluginAsyncTypebox = async (fastify) => {
  const { config } = fastify;
  useOpenAIErrors(fastify);

  /** A failure before the first delivery becomes a status. */
  const toApiError = ({ status, code, message, retryAfterMs }: Extract<Terminal, { type: 'error' }>) =>
    fastify.apiError({ status, code, message, retryAfterMs });

  fastify.post(
    '/chat/completions',
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
      // A client with a key may repeat the request after a cut, so the answer must still be running then.
      const resumable = body.resumable ?? key !== undefined;
      const stream = await fastify.streams.start(question, { logger, identity, key, resumable });
      const reader = await stream.read(0);
      if (reader === undefined) throw new Error('log without a beginning');
      reply.header('x-sluice-stream', stream.id);
      if (body.stream !== true) return sendCompletion(stream, reader, reply);
      return sendChunks(stream, reader, reply, body.stream_options?.include_usage === true);
    },
  );

  /**
   * Holds the status back until the model has begun, so that a failure gets its own status. Waits no
   * longer than one heartbeat, because a gateway must not see silence.
   */
  async function sendChunks(stream: Stream, reader: LogReader, reply: FastifyReply, includeUsage: boolean) {
    const { first, reader: all } = await waitForFirstSlice(reader, reply, config.streams.heartbeatMs);
    if (first?.terminal?.type === 'error' && first.parts.length === 0) {
      reader.close();
      throw toApiError(first.terminal);
    }
    const encode = chunkEncoder(stream, { includeUsage, failure: toOpenAIError });
    return reply.stream([], createEventFeed(all, encode));
  }

  async function sendCompletion(stream: Stream, reader: LogReader, reply: FastifyReply) {
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
      // One race in all. A race per slice would keep every slice alive until the client disconnects.
      return (await Promise.race([collect(), clientDisconnected(reply)])) ?? reply.hijack();
    } finally {
      reader.close();
    }
  }

  const created = Math.floor(Date.now() / 1000);
  const toModel = (id: string) => ({ id, object: 'model', created, owned_by: 'sluice' });

  const access = { config: { access: 'api' } } as const;

  fastify.get('/models', access, async ({ identity }) => ({
    object: 'list',
    // The models of a provider that is open to all cannot be listed.
    data: fastify.llm.models
      .filter((name) => !name.endsWith('/*') && fastify.auth.mayUseModel(identity, name))
      .map(toModel),
  }));

  fastify.get('/models/*', access, async ({ identity, params }) => {
    const { name } = fastify.llm.route((params as { '*': string })['*']);
    if (!fastify.auth.mayUseModel(identity, name)) throw fastify.httpErrors.notFound('Unknown model.');
    return toModel(name);
  });
};

export default v1;
