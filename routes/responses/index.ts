import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import type { Stream } from '../../plugins/streams/api.ts';
import { IdempotencyHeaders } from '../chat-request.ts';
import { clientDisconnected, waitForFirstSlice } from '../disconnect.ts';
import { API_ERRORS, BODY_ERRORS, KEY, openAIErrorResponses, ref, sseContent } from '../responses.ts';
import { useOpenAIErrors } from '../v1/errors.ts';
import { encodeResponseContext, type ResponseContext, responseContextOf } from './context.ts';
import { Conversations, type KeptQuestion, previousOf, withItemIds } from './conversation.ts';
import { echoOf } from './echo.ts';
import { responseOf } from './events.ts';
import { readAnswer, sendEvents } from './read.ts';
import { checkRequest, ownItems, toQuestion } from './request.ts';
import { pendingResponse, type ResponseHead } from './response-object.ts';
import { type InputItem, responseBody } from './schema.ts';
import { registerStored } from './stored.ts';

/** OpenAI's Responses API for any provider. Register with the prefix `/v1/responses`. */
const responses: FastifyPluginAsyncTypebox = async (fastify) => {
  const { config, storedResponses } = fastify;
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
      const { body } = request;
      checkRequest(body, invalid);
      const items = ownItems(body);
      const conversation = await new Conversations(fastify, request, invalid).itemsOf(body, items);
      const question = toQuestion(body, conversation, invalid);
      const context: ResponseContext = {
        createdAt: Math.floor(Date.now() / 1000),
        background: body.background === true,
        hasState: body.include?.includes('reasoning.encrypted_content') === true,
      };
      const isStored = body.store !== false;
      const keptOf = (model: string, ids: readonly InputItem[], context: ResponseContext) =>
        JSON.stringify({
          model,
          context,
          echo: echoOf(body),
          items: ids,
          previous: previousOf(body),
        } satisfies KeptQuestion);
      if (isStored) storedResponses.check(keptOf(body.model ?? '', items, context));
      const { log: logger, headers, identity, bodyClaim } = request;
      const stream = await fastify.streams.start(question, {
        ...{ logger, identity, bodyClaim },
        key: headers['idempotency-key'] && `responses ${headers['idempotency-key']}`,
        resumable: isStored,
        context: encodeResponseContext(context),
        ...(isStored && { stored: context.background ? ('background' as const) : ('foreground' as const) }),
      });
      // A stream that was found by its key has the context of the first request.
      const kept = responseContextOf(stream) ?? context;
      const head = { stream: stream.id, model: stream.model, createdAt: kept.createdAt, echo: echoOf(body) };
      if (isStored)
        await storedResponses.save(stream.id, identity, keptOf(stream.model, withItemIds(stream.id, items), kept));
      const isStreamed = body.stream === true;
      request.dropBody();
      if (isStreamed) return streamEvents(stream, head, kept, reply);
      if (kept.background) return sendPending(stream, head, reply);
      return sendResponse(stream, head, kept, reply);
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
