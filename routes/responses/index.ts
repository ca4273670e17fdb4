import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import type { Stream } from '../../plugins/streams/api.ts';
import { IdempotencyHeaders } from '../chat-request.ts';
import { clientDisconnected, waitForFirstSlice } from '../disconnect.ts';
import { API_ERRORS, BODY_ERRORS, KEY, openAIErrorResponses, ref, sseContent } from '../responses.ts';
import { useOpenAIErrors } from '../v1/errors.ts';
import type { ResponseContext } from './context.ts';
import { startResponse } from './create.ts';
import { responseOf } from './events.ts';
import { readAnswer, sendEvents } from './read.ts';
import { pendingResponse, type ResponseHead } from './response-object.ts';
import { responseBody } from './schema.ts';
import { registerStored } from './stored.ts';

/** OpenAI's Responses API for any provider. Register with the prefix `/v1/responses`. */
const responses: FastifyPluginAsyncTypebox = async (fastify) => {
  const { config } = fastify;
  useOpenAIErrors(fastify);
  const invalid = (message: string, param?: string, reason?: string) =>
    fastify.apiError({ status: 400, code: 'invalid_request', message, param, reason });

  fastify.post(
    '',
    {
      config: { access: 'api' },
      bodyLimit: config.limits.chatBodyBytes,
      schema: {
        tags: ['OpenAI'],
        summary: "Create a response, streamed or whole, as OpenAI's SDKs do",
        description:
          'Fields that Sluice does not have are refused by name. A response that is stored can be read again, also as events behind any event. The error of a provider has its own status until the first token, and is the last event after it.',
        security: KEY,
        body: responseBody(config.limits.messages),
        headers: IdempotencyHeaders,
        response: {
          200: {
            description: 'The response: JSON, or Server-Sent Events if `stream` is true',
            headers: { 'X-Sluice-Stream': { type: 'string', description: 'Id of the stream' } },
            content: {
              'application/json': { schema: ref('Response') },
              ...sseContent('ResponseStreamEvent'),
            },
          },
          ...openAIErrorResponses(...BODY_ERRORS, ...API_ERRORS, 402, 404, 409, 502, 504),
        },
      },
    },
    async (request, reply) => {
      const isStreamed = request.body.stream === true;
      const { stream, head, context } = await startResponse(fastify, request, invalid);
      request.dropBody();
      if (isStreamed) return streamEvents(stream, head, context, reply);
      if (context.background) return sendPending(stream, head, reply);
      return sendResponse(stream, head, context, reply);
    },
  );

  await registerStored(fastify, invalid);

  /**
   * Holds the status back until the model has begun, so that a failure gets its own status. A response in the background
   * has an id from its start on, so it fails in its last event.
   */
  async function streamEvents(stream: Stream, head: ResponseHead, context: ResponseContext, reply: FastifyReply) {
    const reader = await stream.readAppends(0);
    if (reader === undefined) throw new Error('log without a beginning');
    const options = { head, context, after: -1 };
    if (context.background) return sendEvents(fastify, stream, reader, options, reply);
    const { first, reader: all } = await waitForFirstSlice(reader, reply, config.streams.heartbeatMs);
    if (first?.terminal?.type === 'error' && first.parts.length === 0) {
      reader.close();
      throw fastify.apiError(first.terminal);
    }
    return sendEvents(fastify, stream, all, options, reply);
  }

  function sendPending(stream: Stream, head: ResponseHead, reply: FastifyReply): object {
    reply.header('x-sluice-stream', stream.id);
    return pendingResponse(head, 'queued');
  }

  async function sendResponse(stream: Stream, head: ResponseHead, context: ResponseContext, reply: FastifyReply) {
    const reader = await stream.read(0);
    if (reader === undefined) throw new Error('log without a beginning');
    reply.header('x-sluice-stream', stream.id);
    try {
      const answer = await Promise.race([readAnswer(reader), clientDisconnected(reply)]);
      if (answer === undefined) return reply.hijack();
      if (answer.terminal.type === 'error') throw fastify.apiError(answer.terminal);
      return responseOf(head, context, answer);
    } finally {
      reader.close();
    }
  }
};

export default responses;
