import { Type } from '@sinclair/typebox';

/** Schemas of the answers of `/v1`. */

const OrNull = Type.Union([Type.String(), Type.Null()]);
const AnyFields = Type.Record(Type.String(), Type.Unknown());
const ReasoningDetails = Type.Optional(
  Type.Array(AnyFields, {
    description: 'With tool calls: reasoning that the provider wants back. Send it in the next request as it is.',
  }),
);
const ExtraContent = Type.Optional(
  Type.Record(Type.String(), Type.Unknown(), {
    description: 'What the provider wants back with this tool call. Send it in the next request as it is.',
  }),
);
const FinishReason = Type.String({
  description: '`stop`, `length`, `tool_calls`, `content_filter`, or `other` for a reason that Sluice does not know',
});

const OpenAIError = Type.Object(
  {
    error: Type.Object({
      message: Type.String({ description: 'What is wrong and what to do' }),
      type: Type.String(),
      param: Type.Union([Type.String(), Type.Null()], { description: 'Field that is wrong, if it is known' }),
      code: Type.String({ description: 'Stable code, or the reason of a refusal; see docs/errors.md' }),
    }),
  },
  { $id: 'OpenAIError', description: 'Error under `/v1`' },
);

const Model = Type.Object(
  {
    id: Type.String({ description: 'Public name' }),
    object: Type.Literal('model'),
    created: Type.Integer({ description: 'Start of this process, as Unix time' }),
    owned_by: Type.String(),
  },
  { $id: 'Model' },
);

const Usage = Type.Object(
  {
    prompt_tokens: Type.Integer(),
    completion_tokens: Type.Integer(),
    total_tokens: Type.Integer(),
    prompt_tokens_details: Type.Optional(Type.Object({ cached_tokens: Type.Integer() })),
    completion_tokens_details: Type.Optional(Type.Object({ reasoning_tokens: Type.Integer() })),
    cost: Type.Optional(Type.Number({ description: 'USD; absent if it is unknown' })),
  },
  { $id: 'CompletionUsage', description: 'Tokens as the provider counted them' },
);

const common = { id: Type.String(), created: Type.Integer(), model: Type.String({ description: 'Public name' }) };

const ChatCompletion = Type.Object(
  {
    ...common,
    object: Type.Literal('chat.completion'),
    choices: Type.Array(
      Type.Object({
        index: Type.Integer(),
        message: Type.Object({
          role: Type.Literal('assistant'),
          content: OrNull,
          refusal: OrNull,
          reasoning_content: Type.Optional(Type.String({ description: 'Reasoning text, if the provider sends it' })),
          reasoning_details: ReasoningDetails,
          tool_calls: Type.Optional(
            Type.Array(
              Type.Object({
                id: Type.String(),
                type: Type.Literal('function'),
                function: Type.Object({ name: Type.String(), arguments: Type.String({ description: 'JSON' }) }),
                extra_content: ExtraContent,
              }),
            ),
          ),
        }),
        logprobs: Type.Null(),
        finish_reason: FinishReason,
      }),
    ),
    usage: Type.Optional(Type.Unsafe({ $ref: 'CompletionUsage#' })),
  },
  { $id: 'ChatCompletion', description: 'A whole answer' },
);

const ChatCompletionChunk = Type.Object(
  {
    ...common,
    object: Type.Literal('chat.completion.chunk'),
    choices: Type.Array(
      Type.Object({
        index: Type.Integer(),
        delta: Type.Object({
          role: Type.Optional(Type.Literal('assistant')),
          content: Type.Optional(Type.String()),
          refusal: Type.Optional(Type.String({ description: 'Text with which the model refuses' })),
          reasoning_content: Type.Optional(Type.String()),
          reasoning_details: ReasoningDetails,
          tool_calls: Type.Optional(
            Type.Array(
              Type.Object({
                index: Type.Integer(),
                id: Type.Optional(Type.String()),
                type: Type.Optional(Type.Literal('function')),
                function: Type.Object({ name: Type.Optional(Type.String()), arguments: Type.String() }),
                extra_content: ExtraContent,
              }),
            ),
          ),
        }),
        logprobs: Type.Null(),
        finish_reason: Type.Union([FinishReason, Type.Null()]),
      }),
    ),
    usage: Type.Optional(
      Type.Union([Type.Unsafe({ $ref: 'CompletionUsage#' }), Type.Null()], {
        description: 'Only with `stream_options.include_usage`; null in all chunks but the last',
      }),
    ),
  },
  { $id: 'ChatCompletionChunk', description: 'Chunk of an answer. The last event is `[DONE]`.' },
);

const ChatCompletionEvent = Type.Union(
  [Type.Unsafe({ $ref: 'ChatCompletionChunk#' }), Type.Unsafe({ $ref: 'OpenAIError#' })],
  { $id: 'ChatCompletionEvent', description: 'A chunk, or as the last event an error' },
);

/** Shared schemas of the scope, in the order of their references. */
export const ANSWER_SCHEMAS = [OpenAIError, Model, Usage, ChatCompletion, ChatCompletionChunk, ChatCompletionEvent];

export const ModelList = Type.Object({
  object: Type.Literal('list'),
  data: Type.Array(Type.Unsafe<object>({ $ref: 'Model#' })),
});
