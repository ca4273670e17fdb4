import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Stream, Terminal } from '../../plugins/streams/api.ts';
import { API_ERRORS, jsonResponse, KEY, openAIErrorResponses, ref, sseContent } from '../responses.ts';
import { DeletedResponse, InputItemList } from './answer-schema.ts';
import { Conversations, findResponse, type KeptResponse } from './conversation.ts';
import { responseOf } from './events.ts';
import { responseIdOf, streamOfResponse } from './ids.ts';
import { pageOf } from './page.ts';
import { readAnswer, sendEndedEvents, sendEvents } from './read.ts';
import { checkInclude } from './request.ts';
import { pendingResponse } from './response-object.ts';
import { InputItemsQuery, ResponseParams, RetrieveQuery } from './schema.ts';

/** Responses as resources: read, cancel, delete. */

type Invalid = (message: string, param?: string, code?: string) => Error;
type Query = Readonly<Record<string, string | string[] | undefined>>;

/** Time that a producer gets to end an answer that was cancelled. */
const CANCEL_WAIT_MS = 5_000;

const LOST: Terminal = {
  type: 'error',
  code: 'stream_lost',
  message: 'The answer was lost before it was complete.',
  status: 502,
  retryable: true,
};

export async function registerStored(scope: FastifyInstance, invalid: Invalid): Promise<void> {
  const fastify = scope.withTypeProvider<TypeBoxTypeProvider>();
  const config = { access: 'api', countsLater: true } as const;
  const documented = { tags: ['OpenAI'], security: KEY, params: ResponseParams };
  const errors = openAIErrorResponses(...API_ERRORS, 404);

  fastify.get(
    '/:id',
    {
      config,
      schema: {
        ...documented,
        summary: 'Get a response, or its events behind any event',
        description:
          'With `stream=true` its events, as long as the stream is kept (`streams.ttlMs`); with `starting_after`, those behind that event. Never starts an answer.',
        querystring: RetrieveQuery,
        response: {
          200: {
            description: 'The response: JSON, or Server-Sent Events with `stream=true`',
            content: { 'application/json': { schema: ref('Response') }, ...sseContent('ResponseStreamEvent') },
          },
          ...errors,
        },
      },
    },
    async (request, reply) => {
      const query = request.query as Query;
      checkInclude(includeOf(query), invalid);
      const { stream, starting_after: after } = query;
      if (after !== undefined && stream !== 'true')
        throw invalid('starting_after needs stream=true.', 'starting_after');
      const response = await find(request, reply);
      if (stream === 'true') return resume(response, after === undefined ? -1 : Number(after), request, reply);
      return objectOf(response, request);
    },
  );

  fastify.post(
    '/:id/cancel',
    {
      config: { ...config, hasOptionalBody: true },
      schema: {
        ...documented,
        summary: 'Cancel a response that runs in the background',
        description: 'A response that has ended is returned as it is. The body is ignored.',
        response: { 200: jsonResponse(ref('Response'), 'The response'), ...errors, ...openAIErrorResponses(408, 413) },
      },
    },
    async (request, reply) => {
      const response = await find(request, reply);
      if (!response.context.background) throw invalid('Only a response in the background can be cancelled.', 'id');
      const stream = response.answer ? undefined : await fastify.streams.find(response.head.stream, request.identity);
      if (stream === undefined) return objectOf(response, request);
      await stream.stop();
      const answer = await endOf(stream);
      return answer
        ? responseOf(response.head, response.context, answer)
        : pendingResponse(response.head, 'in_progress');
    },
  );

  fastify.delete(
    '/:id',
    {
      config,
      schema: {
        ...documented,
        summary: 'Delete a response',
        description: 'A response that still runs is stopped.',
        response: { 200: jsonResponse(DeletedResponse, 'The response is deleted.'), ...errors },
      },
    },
    async (request, reply) => {
      const { head, answer } = await find(request, reply);
      await fastify.storedResponses.delete(head.stream, request.identity);
      if (answer === undefined) await (await fastify.streams.find(head.stream, request.identity))?.stop();
      return { id: responseIdOf(head.stream), object: 'response' as const, deleted: true as const };
    },
  );

  fastify.get(
    '/:id/input_items',
    {
      config,
      schema: {
        ...documented,
        summary: 'List the items that a response was made of',
        description: 'Those of the previous responses and their outputs, too. The newest come first.',
        querystring: InputItemsQuery,
        response: { 200: jsonResponse(InputItemList, 'A page of the list'), ...errors },
      },
    },
    async (request, reply) => {
      const { after, limit = '20', order = 'desc', ...query } = request.query as Query;
      checkInclude(includeOf(query), invalid);
      const items = await inputOf(request, await find(request, reply));
      const page = pageOf(items, {
        after: after as string | undefined,
        limit: Number(limit),
        isNewestFirst: order === 'desc',
      });
      if (page === undefined) throw invalid('after is not the id of an item of this response.', 'after');
      return page;
    },
  );

  async function inputOf(request: FastifyRequest, response: KeptResponse) {
    const claim = fastify.limits.claimBody(request.identity);
    const release = claim.hold();
    try {
      return await new Conversations(fastify, request, claim, invalid).inputOf(response);
    } finally {
      release();
    }
  }

  async function find(request: FastifyRequest, reply: FastifyReply): Promise<KeptResponse> {
    const stream = streamOfResponse((request.params as { id: string }).id);
    const response = stream === undefined ? undefined : await findResponse(fastify, stream, request);
    if (response) return response;
    await fastify.limits.countGuess(request.identity, reply);
    throw fastify.httpErrors.notFound('This response does not exist or has expired.');
  }

  async function objectOf({ head, context, answer }: KeptResponse, { identity }: FastifyRequest): Promise<object> {
    if (answer) {
      const { parts, terminal, endedAt } = answer;
      return responseOf(head, context, { parts, terminal, completedAt: endedAt && Math.floor(endedAt / 1000) });
    }
    if (await fastify.streams.find(head.stream, identity)) return pendingResponse(head, 'in_progress');
    return responseOf(head, context, { parts: [], terminal: LOST });
  }

  async function resume(
    { head, context, answer }: KeptResponse,
    after: number,
    { identity }: FastifyRequest,
    reply: FastifyReply,
  ): Promise<FastifyReply> {
    const count = (outcome: string) => fastify.metrics.resumes.inc({ outcome });
    const stream = await fastify.streams.find(head.stream, identity);
    const reader = await stream?.readAppends(0);
    count(reader ? 'hit' : 'unknown');
    const options = { head, context, after };
    const isBeyond = () => invalid('This response has no such event; its last one is before it.', 'starting_after');
    if (stream && reader && answer) return sendEndedEvents(fastify, stream, reader, { ...options, isBeyond }, reply);
    if (stream && reader) return sendEvents(fastify, stream, reader, options, reply);
    throw invalid('The events of this response have expired; get it without stream.', 'stream');
  }

  /** Returns the answer of a stream that was stopped; undefined if it takes too long. */
  async function endOf(stream: Stream) {
    const reader = await stream.read(0);
    try {
      return reader && (await fastify.waitAtMost(CANCEL_WAIT_MS, readAnswer(reader)));
    } finally {
      reader?.close();
    }
  }
}

/** Returns the values of `include`, however the client writes a list. */
function includeOf(query: Query): string[] {
  return [query.include ?? [], query['include[]'] ?? []].flat();
}
