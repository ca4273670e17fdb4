import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { ModelName, ReasoningEffort, Resumable } from '../chat-request.ts';

/**
 * The body of a Chat Completions request. Other fields reach providers with the same API; `request.ts` refuses those
 * that no answer of Sluice can hold, and those that could name a URL, a header or a credential.
 */

const Words = <T extends string[]>(...words: [...T]) => Type.Unsafe<T[number]>({ type: 'string', enum: words });
const OrNull = <T extends TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));

/** Anthropic's mark of a prompt that is cached up to here. */
const CacheControl = Type.Object({ type: Words('ephemeral'), ttl: OrNull(Words('5m', '1h')) });

const ContentPart = Type.Object({
  type: Type.String({
    maxLength: 64,
    description: '`text`; also `image_url` and `file` in user messages, and `refusal` in other messages',
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
  file: OrNull(
    Type.Object({
      file_data: OrNull(
        Type.String({
          pattern: '^(https://[^\\s]{1,2040}$|data:application/pdf;)',
          description: 'PDF as a data: URL, or an https: URL',
        }),
      ),
      filename: OrNull(Type.String({ maxLength: 256 })),
    }),
  ),
  cache_control: OrNull(CacheControl),
});

const FunctionName = Type.String({ pattern: '^[A-Za-z0-9_.:-]{1,128}$' });

const Content = Type.Union([Type.String(), Type.Array(ContentPart, { minItems: 1, maxItems: 1_000 })]);
/** Gateways put signatures into the ids of tool calls. No provider's answer has a longer id: see `tool-calls.ts`. */
const ToolCallId = Type.String({ minLength: 1, maxLength: 65_536 });
const AnyFields = Type.Record(Type.String(), Type.Unknown());

const AnyMessage = Type.Object({
  role: Words('system', 'developer', 'user', 'assistant', 'tool'),
  content: OrNull(Content),
  refusal: OrNull(Type.String({ description: 'Text with which the model has refused, in place of `content`' })),
  name: OrNull(Type.String({ maxLength: 256, description: 'Name of the participant, for APIs that have one' })),
  function_call: Type.Optional(Type.Null({ description: 'Not supported; use `tool_calls`' })),
  audio: Type.Optional(Type.Null({ description: 'Not supported' })),
  tool_calls: OrNull(
    Type.Array(
      Type.Object({
        id: ToolCallId,
        function: Type.Object({ name: FunctionName, arguments: Type.String() }),
        extra_content: OrNull(AnyFields),
      }),
      { maxItems: 1_000 },
    ),
  ),
  tool_call_id: OrNull(ToolCallId),
  reasoning_content: OrNull(Type.String()),
  reasoning: OrNull(Type.String({ description: 'The same as `reasoning_content`' })),
  reasoning_details: OrNull(
    Type.Array(AnyFields, { maxItems: 1_000, description: 'As Sluice has sent them: the provider wants them back' }),
  ),
});

/** Requires a field of messages of one role. A union of roles would give errors that name the wrong field. */
const requireField = (role: string, field: string, schema: TSchema) => ({
  if: { type: 'object', properties: { role: { const: role } } },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: { type: 'object', properties: { [field]: schema }, required: [field] },
});

const Message = Type.Unsafe<Static<typeof AnyMessage>>({
  type: 'object',
  allOf: [
    AnyMessage,
    requireField('tool', 'tool_call_id', ToolCallId),
    ...['system', 'developer', 'user', 'tool'].map((role) => requireField(role, 'content', Content)),
  ],
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

const NamedFunction = Type.Object({ name: FunctionName });

const ToolChoice = Type.Union([
  Words('auto', 'none', 'required'),
  Type.Object({ type: Words('function'), function: NamedFunction }),
  Type.Object({
    type: Words('allowed_tools'),
    allowed_tools: Type.Object({
      mode: Words('auto', 'required'),
      tools: Type.Array(Type.Object({ type: Words('function'), function: NamedFunction }), {
        minItems: 1,
        maxItems: 1_000,
      }),
    }),
  }),
]);

const ResponseFormat = Type.Object({
  type: Words('text', 'json_object', 'json_schema'),
  json_schema: OrNull(
    Type.Object({
      name: Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$' }),
      description: OrNull(Type.String()),
      schema: OrNull(AnyFields),
      strict: OrNull(Type.Boolean()),
    }),
  ),
});

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
    response_format: OrNull(ResponseFormat),
    reasoning_effort: OrNull(ReasoningEffort),
    resumable: OrNull(Resumable),
  });
}

export type ChatBody = Static<ReturnType<typeof chatBody>>;
export type ChatMessage = Static<typeof Message>;
