import { type Static, Type } from '@sinclair/typebox';

/** What may be asked. Unknown fields are refused, so that a typing error is not silently ignored. */

/** A page makes one up, usually a UUID: see `key` and `Idempotency-Key`. */
export const IDEMPOTENCY_KEY_PATTERN = '^[\\x21-\\x7e]{1,255}$';

const closed = { additionalProperties: false };

export const ModelName = Type.String({
  description: 'Public model name; the default one where absent',
  pattern: '^(?!.*\\.\\.)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$',
});
const System = Type.Optional(Type.String({ description: 'System text, before everything else', maxLength: 100_000 }));

export const LastEventId = Type.Optional(
  Type.String({ description: 'For clients that cannot set the Last-Event-ID header, which wins' }),
);
export const Ticket = Type.Optional(
  Type.String({ description: 'For clients that cannot set the Authorization header, which wins' }),
);

export const AskQuery = Type.Object(
  {
    question: Type.String({ description: 'The question', minLength: 1 }),
    model: Type.Optional(ModelName),
    system: System,
    key: Type.Optional(
      Type.String({
        pattern: IDEMPOTENCY_KEY_PATTERN,
        description: 'The same key and question attach to the same stream, as long as it is kept',
      }),
    ),
    lastEventId: LastEventId,
    ticket: Ticket,
  },
  closed,
);

const Message = Type.Object(
  {
    role: Type.Union([Type.Literal('system'), Type.Literal('user'), Type.Literal('assistant')]),
    content: Type.String({ minLength: 1 }),
  },
  closed,
);

/** How to answer. */
export const sampling = {
  system: System,
  temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2 })),
  maxTokens: Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000_000 })),
  stop: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 1_000 }), { minItems: 1, maxItems: 16 })),
};

const asked = {
  question: Type.Optional(Type.String({ minLength: 1 })),
  messages: Type.Optional(Type.Array(Message, { minItems: 1, maxItems: 10_000 })),
  model: Type.Optional(ModelName),
  ...sampling,
};

/** `POST /streams` */
export const Question = Type.Object(asked, closed);

/** `POST /ask/stream` */
export const AskBody = Type.Object(
  {
    ...asked,
    resumable: Type.Optional(
      Type.Boolean({
        description: 'Whether the client can come back: the answer then goes on for the grace time without it',
      }),
    ),
  },
  closed,
);

type AskQuery = Static<typeof AskQuery>;
type Question = Static<typeof Question>;
type Messages = NonNullable<Question['messages']>;

export function questionFromQuery({ question, system, model }: AskQuery) {
  return { model, messages: withSystem(system, [{ role: 'user', content: question }]) };
}

/** Undefined where the body names neither a question nor messages, or both. */
export function questionFromBody({ question, messages, system, ...rest }: Question) {
  if ((question === undefined) === (messages === undefined)) return undefined;
  return { ...rest, messages: withSystem(system, messages ?? [{ role: 'user', content: question as string }]) };
}

function withSystem(system: string | undefined, messages: Messages): Messages {
  return system === undefined ? messages : [{ role: 'system', content: system }, ...messages];
}
