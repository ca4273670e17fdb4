import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import type { LogReader, Slice, Stream, Terminal } from '../../plugins/streams/api.ts';
import { createErrorFormatter, IdempotencyHeaders } from '../chat-request.ts';
import { clientDisconnected, waitForFirstSlice } from '../disconnect.ts';
import { API_ERRORS, BODY_ERRORS, jsonResponse, KEY, openAIErrorResponses, ref, sseContent } from '../responses.ts';
import { createEventFeed } from '../sse-events.ts';
import { createChunkEncoder, createCompletionCollector } from './answer.ts';
import { ModelList } from './answer-schema.ts';
import { toOpenAIError, useOpenAIErrors } from './errors.ts';
import { toQuestion } from './request.ts';
import { chatBody } from './schema.ts';

/** OpenAI's Chat Completions API for any provider. Register with the prefix `/v1`. */
const v1: FastifyPluginAsyncTypebox = async (fastify) => {
  const { config } = fastify;
  useOpenAIErrors(fastify);

  /** A failure before the first delivery becomes a status. */
  const toApiError = (terminal: Extract<Terminal, { type: 'error' }>) => fastify.apiError(terminal);

  fastify.post(
    '/chat/completions',
    {
      config: { access: 'api' },
      bodyLimit: config.limits.chatBodyBytes,
      schemaErrorFormatter: createErrorFormatter(fastify),
      schema: {
        tags: ['OpenAI'],
        summary: "Create a chat completion, streamed or whole, as OpenAI's SDKs do",
        description:
          'Unknown fields are ignored. Fields that would change the answer and are not supported are refused. The error of a provider has its own status until the first token, and is the last event after it.',
        security: KEY,
        body: chatBody(config.limits.messages),
        headers: IdempotencyHeaders,
        response: {
          200: {
            description: 'The answer: JSON, or Server-Sent Events if `stream` is true',
            headers: { 'X-Sluice-Stream': { type: 'string', description: 'Id of the stream' } },
            content: {
              'application/json': { schema: ref('ChatCompletion') },
              ...sseContent('ChatCompletionEvent', '[DONE]'),
            },
          },
          ...openAIErrorResponses(...BODY_ERRORS, ...API_ERRORS, 402, 404, 409, 502, 504),
        },
      },
    },
    async (request, reply) => {
      const { body, log: logger, headers, identity, bodyClaim } = request;
      const question = toQuestion(body, (message, param) => fastify.invalidRequest(message, 400, param));
      const key = headers['idempotency-key'];
      // A client with a key may repeat the request after a cut, so the answer must still be running then.
      const resumable = body.resumable ?? key !== undefined;
      const stream = await fastify.streams.start(question, { logger, identity, key, resumable, bodyClaim });
      request.dropBody();
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
    const { encode, heartbeat } = createChunkEncoder(stream, { includeUsage, failure: toOpenAIError });
    // Some clients ignore an error inside a stream. A response that ends well would be a whole answer for them.
    const breaksOff = ({ terminal }: Slice) => terminal?.type === 'error';
    return reply.stream([], { ...createEventFeed(all, encode), heartbeat, breaksOff });
  }

  async function sendCompletion(stream: Stream, reader: LogReader, reply: FastifyReply) {
    const answer = createCompletionCollector(stream);
    const collect = async () => {
      for (;;) {
        const slice = await reader.next();
        answer.add(slice);
        if (slice.terminal?.type === 'error') throw toApiError(slice.terminal);
        if (slice.terminal) return answer.completion(slice.terminal);
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

  const access = { access: 'api' } as const;
  const documented = { tags: ['OpenAI'], security: KEY };

  fastify.get(
    '/models',
    {
      config: access,
      schema: {
        ...documented,
        summary: 'List the models that the key may use',
        response: {
          200: jsonResponse(ModelList, 'Configured models, the default first'),
          ...openAIErrorResponses(...API_ERRORS),
        },
      },
    },
    async ({ identity }) => ({
      object: 'list' as const,
      // The models of a provider that allows all models cannot be listed.
      data: fastify.llm.models
        .filter((name) => !name.endsWith('/*') && fastify.auth.mayUseModel(identity, name))
        .map(toModel),
    }),
  );

  fastify.get(
    '/models/*',
    {
      config: access,
      schema: {
        ...documented,
        summary: 'Get one model',
        params: Type.Object({ '*': Type.String({ description: 'Public name; may contain slashes' }) }),
        response: { 200: jsonResponse(ref('Model'), 'The model'), ...openAIErrorResponses(...API_ERRORS, 404) },
      },
    },
    async ({ identity, params }) => {
      const { name } = fastify.llm.route(params['*'], identity);
      if (!fastify.auth.mayUseModel(identity, name)) throw fastify.httpErrors.notFound('Unknown model.');
      return toModel(name);
    },
  );
};

export default v1;
