import { type Static, type TSchema, Type } from '@sinclair/typebox';
import type { FastifyInstance, FastifySchemaValidationError } from 'fastify';
import { ref } from './responses.ts';

/** Schemas of a question. Unknown fields are refused, so that a misspelled name is not ignored. */

/** Clients choose an idempotency key, usually a UUID. */
const IDEMPOTENCY_KEY = {
  pattern: '^[\\x21-\\x7e]{1,255}$',
  description:
    'Idempotency key: the same key and question give the same stream as long as it is stored. If that has failed with `retryable: true` before its first part, a new one starts.',
};

const CLOSED = { additionalProperties: false };

export const ModelName = ref<string>('ModelName');

const System = Type.Optional(
  Type.String({ description: 'System text, placed before all messages', maxLength: 100_000 }),
);

export const LastEventId = Type.Optional(
  Type.String({
    description:
      'Id of the last received event. For clients that cannot set the `Last-Event-ID` header; the header wins.',
  }),
);
export const Ticket = Type.Optional(
  Type.String({ description: 'For clients that cannot set the `Authorization` header; the header wins' }),
);

/** Query of routes whose question is in the body. */
export const TicketQuery = Type.Object({ ticket: Ticket });

/** Headers of SSE routes. `parseLastEventId` checks the value. */
export const ResumeHeaders = Type.Object({
  'last-event-id': Type.Optional(
    Type.String({
      description:
        'Id of the last received event: the answer continues after it. Browsers send it when they reconnect.',
    }),
  ),
});

export const IdempotencyHeaders = Type.Object({
  'idempotency-key': Type.Optional(Type.String(IDEMPOTENCY_KEY)),
});

/** Headers of a question in a body whose response is SSE. */
export const AskHeaders = Type.Object({ ...ResumeHeaders.properties, ...IdempotencyHeaders.properties });

export const AskQuery = Type.Object(
  {
    question: Type.String({ description: 'The question', minLength: 1 }),
    model: Type.Optional(ModelName),
    system: System,
    key: Type.Optional(Type.String(IDEMPOTENCY_KEY)),
    lastEventId: LastEventId,
    ticket: Ticket,
  },
  CLOSED,
);

const Message = Type.Object(
  {
    role: Type.Union([Type.Literal('system'), Type.Literal('user'), Type.Literal('assistant')]),
    content: Type.String({ minLength: 1 }),
  },
  CLOSED,
);

export const ReasoningEffort = Type.String({
  pattern: '^[a-z]{1,16}$',
  description: '`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`, as far as the model has them',
});

export const MaxTokens = Type.Integer({ minimum: 1, maximum: 10_000_000, description: 'Most tokens of an answer' });

/** Fields that say how to answer. */
export const sampling = {
  system: System,
  temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2 })),
  maxTokens: Type.Optional(MaxTokens),
  reasoningEffort: Type.Optional(ReasoningEffort),
  stop: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 1_000 }), { minItems: 1, maxItems: 16 })),
};

export const Resumable = Type.Boolean({
  description: 'True if the client can resume: the answer then continues for the grace time without a reader.',
});

function questionFields(maxMessages: number) {
  return {
    question: Type.Optional(Type.String({ minLength: 1, description: 'A single question, instead of `messages`' })),
    messages: Type.Optional(
      Type.Array(Message, { minItems: 1, maxItems: maxMessages, description: 'A conversation, instead of `question`' }),
    ),
    model: Type.Optional(ModelName),
    ...sampling,
  };
}

/** Returns the body of `POST /streams`. */
export function questionBody(maxMessages: number) {
  return questionOrMessages(Type.Object(questionFields(maxMessages), CLOSED));
}

/** Returns the body of `POST /ask/stream`. */
export function askBody(maxMessages: number) {
  return questionOrMessages(
    Type.Object({ ...questionFields(maxMessages), resumable: Type.Optional(Resumable) }, CLOSED),
  );
}

/** Allows one of `question` and `messages`. Ajv checks the fields first, so that an error names a wrong field. */
function questionOrMessages<T extends TSchema>(fields: T) {
  const oneOf = [{ required: ['question'] }, { required: ['messages'] }];
  return Type.Unsafe<Static<T>>({ type: 'object', allOf: [fields, { oneOf }] });
}

/** Returns a `schemaErrorFormatter` that replaces those messages of Ajv that do not say what to do. */
export function createErrorFormatter({ invalidRequest }: FastifyInstance) {
  return (errors: FastifySchemaValidationError[]): Error => {
    if (errors.some(({ keyword, instancePath }) => keyword === 'oneOf' && instancePath === '')) {
      return invalidRequest('Send either question or messages.');
    }
    const tooMany = errors.find(({ keyword, instancePath }) => keyword === 'maxItems' && instancePath === '/messages');
    if (tooMany) return invalidRequest(`Too many messages; at most ${tooMany.params.limit} are allowed.`);
    return new Error('The request is not valid.'); // The error handler names the field.
  };
}

type AskQuery = Static<typeof AskQuery>;
type Question = Static<ReturnType<typeof questionBody>>;
type Messages = NonNullable<Question['messages']>;

export function questionFromQuery({ question, system, model }: AskQuery) {
  return { model, messages: withSystem(system, [{ role: 'user', content: question }]) };
}

export function questionFromBody({ question = '', messages, system, reasoningEffort, ...rest }: Question) {
  return {
    ...rest,
    messages: withSystem(system, messages ?? [{ role: 'user', content: question }]),
    ...(reasoningEffort !== undefined && { options: { reasoning_effort: reasoningEffort } }),
  };
}

function withSystem(system: string | undefined, messages: Messages): Messages {
  return system === undefined ? messages : [{ role: 'system', content: system }, ...messages];
}
