import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { ModelName, Resumable } from '../chat-request.ts';

/**
 * The body of a Chat Completions request. Unknown fields are ignored, because OpenAI's own clients add
 * some. `request.ts` refuses those that would change the answer and are not supported.
 */

const Words = <T extends string[]>(...words: [...T]) => Type.Unsafe<T[number]>({ type: 'string', enum: words });
const OrNull = <T extends TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));

const ContentPart = Type.Object({
  type: Type.String({
    maxLength: 64,
    description: '`text`; also `image_url` in user messages and `refusal` in other messages',
  }),
  text: OrNull(Type.String()),
  refusal: OrNull(Type.String()),
  image_url: OrNull(
    Type.Object({
      url: Type.String({
        pattern: '^(https://.{1,2040}$|data:image/)',
        description: 'https: URL of at most 2,048 characters, or data:image/ URL',
      }),
      detail: OrNull(Words('auto', 'low', 'high', 'original')),
    }),
  ),
});

const FunctionName = Type.String({ pattern: '^[A-Za-z0-9_.:-]{1,128}$' });

const Content = Type.Union([Type.String(), Type.Array(ContentPart, { maxItems: 1_000 })]);
const ToolCallId = Type.String({ minLength: 1, maxLength: 256 });

const AnyMessage = Type.Object({
  role: Words('system', 'developer', 'user', 'assistant', 'tool'),
  content: OrNull(Content),
  tool_calls: OrNull(
    Type.Array(
      Type.Object({
        id: Type.String({ minLength: 1, maxLength: 256 }),
        function: Type.Object({ name: FunctionName, arguments: Type.String() }),
      }),
      { maxItems: 1_000 },
    ),
  ),
  tool_call_id: OrNull(ToolCallId),
  reasoning_content: OrNull(Type.String()),
});

/** Requires a field of messages of one role. A union of roles would give errors that name the wrong field. */
const requireField = (role: string, field: string, schema: TSchema) => ({
  if: { type: 'object', properties: { role: { const: role } } },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: { type: 'object', properties: { [field]: schema }, required: [field] },
});

const Message = Type.Unsafe<Static<typeof AnyMessage>>({
  type: 'object',
  allOf: [AnyMessage, requireField('user', 'content', Content), requireField('tool', 'tool_call_id', ToolCallId)],
});

const Tool = Type.Object({
  type: Words('function'),
  function: Type.Object({
    name: FunctionName,
    description: OrNull(Type.String()),
    parameters: OrNull(Type.Record(Type.String(), Type.Unknown())),
    strict: OrNull(Type.Boolean()),
  }),
});

const ToolChoice = Type.Union([
  Words('auto', 'none', 'required'),
  Type.Object({ type: Words('function'), function: Type.Object({ name: FunctionName }) }),
]);

const Limit = Type.Integer({ minimum: 1, maximum: 10_000_000 });

/** Returns the body of `POST /v1/chat/completions`. */
export function chatBody(maxMessages: number) {
  return Type.Object({
    model: OrNull(ModelName),
    messages: Type.Array(Message, { minItems: 1, maxItems: maxMessages }),
    stream: OrNull(Type.Boolean()),
    stream_options: OrNull(Type.Object({ include_usage: OrNull(Type.Boolean()) })),
    temperature: OrNull(Type.Number({ minimum: 0, maximum: 2 })),
    top_p: OrNull(Type.Number({ minimum: 0, maximum: 1 })),
    max_tokens: OrNull(Limit),
    max_completion_tokens: OrNull(Limit),
    stop: OrNull(
      Type.Union([
        Type.String({ minLength: 1, maxLength: 1_000 }),
        Type.Array(Type.String({ minLength: 1, maxLength: 1_000 }), { maxItems: 16 }),
      ]),
    ),
    tools: OrNull(Type.Array(Tool, { maxItems: 1_000 })),
    tool_choice: OrNull(ToolChoice),
    resumable: OrNull(Resumable),
  });
}

export type ChatBody = Static<ReturnType<typeof chatBody>>;
export type ChatMessage = Static<typeof Message>;
