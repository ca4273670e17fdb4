import { type FastifyPluginAsyncTypebox, type Static, Type } from '@fastify/type-provider-typebox';
import type { FastifyInstance, FastifySchemaValidationError } from 'fastify';
import { MaxTokens, ModelName } from '../chat-request.ts';
import { API_ERRORS, BODY_ERRORS, errorResponses, jsonResponse, KEY } from '../responses.ts';

const COUNT = { minimum: 1, maximum: 1_000_000_000 };

const VisitorLimits = {
  requestsPerMinute: Type.Optional(Type.Integer({ ...COUNT, description: 'Requests of the visitor per minute' })),
  tokensPerMinute: Type.Optional(
    Type.Integer({ ...COUNT, description: 'Input and output tokens of the visitor per minute' }),
  ),
  tokensPerDay: Type.Optional(
    Type.Integer({ ...COUNT, description: 'Input and output tokens of the visitor in 24 hours' }),
  ),
  maxConcurrent: Type.Optional(
    Type.Integer({ ...COUNT, description: 'Answers of the visitor that may run at the same time' }),
  ),
};

const Visitor = Type.String({
  minLength: 1,
  maxLength: 128,
  description:
    'Your name of the visitor, such as a session id: gives it streams and limits of its own. Only a keyed hash is kept. Limits that are absent are those of `visitors` of the key; none is above that of the key',
});

const MAX_QUESTIONS = 1_000;

const Fields = Type.Object(
  {
    visitor: Type.Optional(Visitor),
    ...VisitorLimits,
    questions: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: MAX_QUESTIONS,
        description: 'Number of questions that it may start; 1 if absent',
      }),
    ),
    seconds: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 3_600,
        description:
          'Time in which questions may be started: at most and by default 60 for one question; 600 by default for several',
      }),
    ),
    model: Type.Optional(ModelName),
    system: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 2_500,
        description: 'System text of every question. The page can read it in the ticket, and cannot change it',
      }),
    ),
    maxTokens: Type.Optional(MaxTokens),
    question: Type.Optional(
      Type.String({ minLength: 1, maxLength: 100_000, description: 'The only question that it may start' }),
    ),
  },
  { additionalProperties: false },
);

/** Longest validity for one question, and defaults for one and for several, in seconds. */
const ONE_QUESTION_S = 60;
const CONVERSATION_S = 600;

/** Fields that depend on others: limits are those of a visitor, and a ticket for one question is short. */
const LIMITS_NEED_VISITOR = {
  if: { anyOf: Object.keys(VisitorLimits).map((name) => ({ required: [name] })) },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: { required: ['visitor'], properties: { visitor: Visitor } },
};
const LONG_NEEDS_QUESTIONS = {
  if: { required: ['seconds'], properties: { seconds: { type: 'integer', minimum: ONE_QUESTION_S + 1 } } },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: {
    required: ['questions'],
    properties: { questions: { type: 'integer', minimum: 2, maximum: MAX_QUESTIONS } },
  },
};
const TicketBody = Type.Unsafe<Static<typeof Fields>>({
  type: 'object',
  allOf: [Fields, LIMITS_NEED_VISITOR, LONG_NEEDS_QUESTIONS],
});

const TicketResponse = Type.Object({
  ticket: Type.String({ description: 'Value of `?ticket=`, or of `Authorization: Bearer`' }),
  expiresAt: Type.String({
    format: 'date-time',
    description: 'Resuming its own streams stays possible after this, while the key or token is valid',
  }),
});

/** Gives tickets to backends that have a key, for pages, which must not have one. */
const tickets: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.post(
    '/tickets',
    {
      config: { access: 'api', hasOptionalBody: true, countsLater: true },
      schemaErrorFormatter: createErrorFormatter(fastify),
      schema: {
        tags: ['Identity'],
        summary: 'Get a ticket with which a page may ask',
        description:
          'A ticket is accepted by `GET` and `POST /ask/stream`, `POST /streams` and `/ui/chat`. What it fixes (`model`, `system`, `maxTokens`, `question`), a page may leave out and cannot change.',
        security: KEY,
        body: TicketBody,
        response: {
          201: jsonResponse(TicketResponse, 'The ticket'),
          ...errorResponses(...BODY_ERRORS, ...API_ERRORS, 404),
        },
      },
    },
    async ({ body, identity, log }, reply) => {
      const { model, seconds, visitor, requestsPerMinute, tokensPerMinute, tokensPerDay, maxConcurrent, ...terms } =
        body;
      const limits = { requestsPerMinute, tokensPerMinute, tokensPerDay, maxConcurrent };
      const payer = visitor === undefined ? identity : fastify.auth.findVisitor(identity, visitor, limits);
      // A visitor gets as many tickets as it may ask questions; what is refused costs the key nothing.
      await fastify.limits.countRequest(
        visitor === undefined ? payer : { ...payer, payer: `${payer.owner} tickets` },
        reply,
      );
      const route = model === undefined ? undefined : fastify.llm.route(model, identity);
      if (route !== undefined && !fastify.auth.mayUseModel(identity, route.name)) {
        fastify.audit.modelRefused(log, identity.owner, route.label);
        throw fastify.httpErrors.forbidden('This key may not use this model.');
      }
      const { questions = 1 } = terms;
      const { ticket, expiresAt } = fastify.auth.createAskTicket(identity, {
        ...terms,
        model: route?.name,
        visitor,
        limits,
        ms: (seconds ?? (questions > 1 ? CONVERSATION_S : ONE_QUESTION_S)) * 1000,
      });
      reply.code(201).header('cache-control', 'no-store');
      return { ticket, expiresAt: expiresAt.toISOString() };
    },
  );
};

/** Says what to do about fields that contradict one another. Ajv checks each field first. */
function createErrorFormatter({ invalidRequest }: FastifyInstance) {
  return (errors: FastifySchemaValidationError[]): Error => {
    const fails = (name: string) => errors.some(({ schemaPath }) => schemaPath.startsWith(`#/allOf/${name}/`));
    if (fails('1')) return invalidRequest('Limits are those of a visitor; send visitor, too.', 400, 'visitor');
    if (fails('2')) {
      return invalidRequest(`seconds must be at most ${ONE_QUESTION_S}, or send questions.`, 400, 'seconds');
    }
    return new Error('The request is not valid.'); // The error handler names the field.
  };
}

export default tickets;
