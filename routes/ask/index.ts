import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { eventsOf, startEvent } from '../events.ts';
import { AskBody, AskQuery } from './schema.ts';

/** Ask and read the answer in one request: GET for a plain EventSource, POST for `fetch`. */
const ask: FastifyPluginAsyncTypebox = async (fastify) => {
  type Question = Parameters<typeof fastify.streams.start>[0];

  const answer = (question: Question, request: FastifyRequest, reply: FastifyReply) => {
    const stream = fastify.streams.start(question, request.log);
    return reply.stream([startEvent(stream)], eventsOf(stream, stream.read(0)));
  };

  const acceptsEvents = async ({ headers }: FastifyRequest) => {
    const { accept = '*/*' } = headers;
    if (/text\/event-stream|text\/\*|\*\/\*/i.test(accept)) return;
    throw fastify.httpErrors.notAcceptable('This path answers with text/event-stream.');
  };

  fastify.get(
    '/ask/stream',
    { schema: { querystring: AskQuery }, onRequest: acceptsEvents },
    async (request, reply) => {
      const { question, system, model } = request.query;
      return answer({ model, messages: conversation(system, [{ role: 'user', content: question }]) }, request, reply);
    },
  );

  fastify.post('/ask/stream', { schema: { body: AskBody }, onRequest: acceptsEvents }, async (request, reply) => {
    const { question, messages, system, ...rest } = request.body;
    if ((question === undefined) === (messages === undefined)) {
      throw fastify.httpErrors.badRequest('Send either question or messages.');
    }
    const asked = messages ?? [{ role: 'user' as const, content: question as string }];
    return answer({ ...rest, messages: conversation(system, asked) }, request, reply);
  });
};

type Messages = NonNullable<AskBody['messages']>;

function conversation(system: string | undefined, messages: Messages): Messages {
  return system === undefined ? messages : [{ role: 'system', content: system }, ...messages];
}

export default ask;
