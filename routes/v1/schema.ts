import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { ModelName } from '../chat-request.ts';

/**
 * What clients of OpenAI's Chat Completions send. Fields that are not known here are ignored, as
 * OpenAI's own clients add some; what would change the answer and cannot be done is refused in
 * `request.ts`.
 */

const Words = <T extends string[]>(...words: [...T]) => Type.Unsafe<T[number]>({ type: 'string', enum: words });
const OrNull = <T extends TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));

const ContentPart = Type.Object({
  type: Type.String({ maxLength: 64 }),
  text: OrNull(Type.String()),
  refusal: OrNull(Type.String()),
  image_url: OrNull(
    Type.Object({
      url: Type.String({ pattern: '^(https://|data:image/)', description: 'an https: or data:image/ URL' }),
      detail: OrNull(Words('auto', 'low', 'high', 'original')),
    }),
  ),
});

const FunctionName = Type.String({ pattern: '^[A-Za-z0-9_.:-]{1,128}$' });

const Message = Type.Object({
  role: Words('system', 'developer', 'user', 'assistant', 'tool'),
  content: OrNull(Type.Union([Type.String(), Type.Array(ContentPart, { maxItems: 1_000 })])),
  tool_calls: OrNull(
    Type.Array(
      Type.Object({
        id: Type.String({ minLength: 1, maxLength: 256 }),
        function: Type.Object({ name: FunctionName, arguments: Type.String() }),
      }),
      { maxItems: 1_000 },
    ),
  ),
  tool_call_id: OrNull(Type.String({ minLength: 1, maxLength: 256 })),
  reasoning_content: OrNull(Type.String()),
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

export const ChatBody = Type.Object({
  model: OrNull(ModelName),
  messages: Type.Array(Message, { minItems: 1, maxItems: 10_000 }),
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
  /** Ours: whether the answer goes on for the grace time when its reader has left. */
  resumable: OrNull(Type.Boolean()),
});

export type ChatBody = Static<typeof ChatBody>;
export type ChatMessage = Static<typeof Message>;
