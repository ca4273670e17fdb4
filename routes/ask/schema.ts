import { type Static, Type } from '@sinclair/typebox';

/** What may be asked. Unknown fields are refused, so that a typing error is not silently ignored. */

const closed = { additionalProperties: false };

const Model = Type.Optional(
  Type.String({
    description: 'Public model name; the default one where absent',
    pattern: '^(?!.*\\.\\.)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$',
  }),
);
const System = Type.Optional(Type.String({ description: 'System text, before everything else', maxLength: 100_000 }));

export const AskQuery = Type.Object(
  {
    question: Type.String({ description: 'The question', minLength: 1 }),
    model: Model,
    system: System,
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

export const AskBody = Type.Object(
  {
    question: Type.Optional(Type.String({ minLength: 1 })),
    messages: Type.Optional(Type.Array(Message, { minItems: 1, maxItems: 1_000 })),
    model: Model,
    system: System,
    temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 2 })),
    maxTokens: Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000_000 })),
    stop: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 1_000 }), { minItems: 1, maxItems: 16 })),
  },
  closed,
);

export type AskQuery = Static<typeof AskQuery>;
export type AskBody = Static<typeof AskBody>;
