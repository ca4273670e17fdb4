import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import type { Question, Stream } from '../../plugins/streams/api.ts';
import { createErrorFormatter, ResumeHeaders, TicketQuery } from '../chat-request.ts';
import {
  API_ERRORS,
  BODY_ERRORS,
  emptyResponse,
  errorResponses,
  jsonResponse,
  KEY_OR_TICKET,
  sseResponse,
} from '../responses.ts';
import { acceptsEvents } from '../resume.ts';
import { type StartStreamOptions, startStream } from '../start-stream.ts';
import { CAPABILITIES } from './capabilities.ts';
import { readRun, resumePointOf, resumeRun } from './read.ts';
import { toQuestion } from './request.ts';
import { encodeRunNames, type RunNames, runNamesOf } from './run-names.ts';
import { Capabilities, JoinQuery, runInput } from './schema.ts';

/** AG-UI: the protocol of TanStack AI, CopilotKit and assistant-ui. */
const agui: FastifyPluginAsyncTypebox = async (fastify) => {
  const { limits } = fastify.config;
  const events = {
    ...sseResponse('AguiEvent', { description: 'Events of AG-UI' }),
    headers: { 'X-Sluice-Stream': { type: 'string', description: 'Id of the stream' } },
  };
  const ended = emptyResponse('The client has the last event, and the run has expired.');

  fastify.post(
    '/agui',
    {
      config: { access: 'ask' },
      bodyLimit: limits.chatBodyBytes,
      onRequest: acceptsEvents,
      // A client that resumes may send any body.
      attachValidation: true,
      schemaErrorFormatter: createErrorFormatter(fastify),
      schema: {
        tags: ['AG-UI'],
        summary: 'Answer the `RunAgentInput` of an AG-UI client',
        description:
          'With `Last-Event-ID`, the run continues behind that event, and the body is ignored. `runId` is an idempotency key. The run continues for the grace time when the client disconnects, unless `forwardedProps.resumable` is false. A resume that cannot be served now is a broken connection.',
        security: KEY_OR_TICKET,
        querystring: TicketQuery,
        headers: ResumeHeaders,
        body: runInput(limits.messages),
        response: { 200: events, 204: ended, ...errorResponses(...BODY_ERRORS, ...API_ERRORS, 404, 406, 409) },
      },
    },
    async (request, reply) => {
      const point = resumePointOf(request);
      if (point) return resumeRun(fastify, point, request, reply);
      if (request.validationError) throw request.validationError;
      const { threadId, runId, forwardedProps } = request.body;
      const question = toQuestion(request.body, (message) => fastify.httpErrors.badRequest(message));
      const { resumable = true } = forwardedProps ?? {};
      // Some clients of AG-UI reconnect and some do not, so they have to say it.
      const reconnects = forwardedProps?.resumable === true;
      const run = { threadId, runId };
      const stream = await startRun(request, question, run, resumable);
      request.dropBody();
      return readRun(fastify, stream, run, reply, reconnects);
    },
  );

  fastify.get(
    '/agui',
    {
      config: { access: 'ask', countsLater: true },
      onRequest: acceptsEvents,
      schema: {
        tags: ['AG-UI'],
        summary: 'Read a run from its start, or continue it behind an event',
        description:
          'Never starts a run. `runId` names a run, `threadId` the newest run of a conversation, if it is still running; with `Last-Event-ID` or `offset`, neither is needed. A resume that cannot be served now is a broken connection.',
        security: KEY_OR_TICKET,
        querystring: JoinQuery,
        headers: ResumeHeaders,
        response: {
          200: events,
          204: emptyResponse(
            'No run of this conversation is running, or the client has the last event of an expired run.',
          ),
          ...errorResponses(...API_ERRORS, 404, 406),
        },
      },
    },
    async (request, reply) => {
      const point = resumePointOf(request);
      if (point) return resumeRun(fastify, point, request, reply);
      const { query, identity } = request;
      const { runId, threadId } = query;
      if (runId !== undefined) {
        const stream = await fastify.streams.findByKey(keyOf(runId), identity);
        const run = stream && runNamesOf(stream);
        if (run) return readRun(fastify, stream, run, reply, true);
        await fastify.limits.countGuess(identity, reply);
        throw fastify.httpErrors.notFound('This run does not exist or has expired.');
      }
      if (threadId === undefined) throw fastify.invalidRequest('Send runId, threadId, or a Last-Event-ID.');
      const stream = await fastify.streams.findByChat(keyOf(threadId), identity);
      const run = stream && runNamesOf(stream);
      return run ? readRun(fastify, stream, run, reply, true) : reply.code(204).send();
    },
  );

  fastify.get(
    '/agui/capabilities',
    {
      config: { access: 'ask' },
      schema: {
        tags: ['AG-UI'],
        summary: 'Get the capabilities as AG-UI describes them',
        security: KEY_OR_TICKET,
        querystring: TicketQuery,
        response: { 200: jsonResponse(Capabilities, 'The capabilities.'), ...errorResponses(...API_ERRORS) },
      },
    },
    async () => CAPABILITIES,
  );

  /** Starts a run, or finds it by its id. @throws 409 if the id stands for other input */
  async function startRun(
    request: FastifyRequest,
    question: Question,
    run: RunNames,
    resumable: boolean,
  ): Promise<Stream> {
    const key = keyOf(run.runId);
    const context = encodeRunNames(run);
    const options: StartStreamOptions = { key, context, resumable, chat: keyOf(run.threadId) };
    const conflict = () => {
      const message = 'This runId was used for another input; choose a new one.';
      return fastify.apiError({ status: 409, code: 'conflict', message });
    };
    const stream = await startStream(request, question, options).catch((error: { statusCode?: number }) => {
      throw error.statusCode === 409 ? conflict() : error;
    });
    if (runNamesOf(stream)?.threadId !== run.threadId) throw conflict();
    return stream;
  }
};

/** Returns the name of a run or conversation inside the service. No idempotency key or chat of other routes has a space. */
function keyOf(name: string): string {
  return `agui ${name}`;
}

export default agui;
