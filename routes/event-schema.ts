import { Type } from '@sinclair/typebox';

/** Schema of Sluice's own events, as `sse-events.ts` encodes them. */

export const Usage = Type.Object(
  {
    inputTokens: Type.Optional(Type.Integer()),
    outputTokens: Type.Optional(Type.Integer()),
    totalTokens: Type.Optional(Type.Integer()),
    cachedTokens: Type.Optional(Type.Integer({ description: 'Part of the input' })),
    cacheWriteTokens: Type.Optional(Type.Integer({ description: 'Part of the input' })),
    longCacheWriteTokens: Type.Optional(
      Type.Integer({ description: 'Part of `cacheWriteTokens` that is cached for an hour' }),
    ),
    reasoningTokens: Type.Optional(Type.Integer({ description: 'Part of the output' })),
    cost: Type.Optional(Type.Number({ description: 'USD, with at most 12 decimals; absent if it is unknown' })),
  },
  { description: 'Tokens as the provider counted them, and what they cost' },
);

const Start = Type.Object(
  {
    type: Type.Literal('start'),
    stream: Type.String({ description: 'Id of the stream' }),
    model: Type.String({ description: 'Public name of the model' }),
    url: Type.String({
      description: 'Reads the stream again; `DELETE` stops it. Carries a ticket if keys are configured.',
    }),
    resumable: Type.Boolean({ description: 'True if a reader that is cut off can resume' }),
  },
  { description: 'First event. Sent before the model has answered.' },
);
const Delta = Type.Object({ type: Type.Literal('delta'), content: Type.String() }, { description: 'Text to append' });
const Reasoning = Type.Object(
  { type: Type.Literal('reasoning'), content: Type.String() },
  { description: 'Reasoning text, if the provider sends it' },
);
const ToolCall = Type.Object(
  {
    type: Type.Literal('tool_call'),
    index: Type.Integer({ description: 'Number of the call: 0, 1, 2 …' }),
    id: Type.Optional(Type.String()),
    name: Type.Optional(Type.String()),
    arguments: Type.String({ description: 'Fragment of JSON' }),
  },
  { description: "Fragment of a tool call, as in OpenAI's `tool_calls` deltas" },
);
const Status = Type.Object(
  { type: Type.Literal('status'), resumable: Type.Boolean() },
  { description: 'The stream became resumable, or stopped being resumable. Has no id.' },
);
const End = Type.Object(
  {
    type: Type.Literal('end'),
    answer: Type.String({ description: 'The whole text' }),
    model: Type.String(),
    finishReason: Type.String({
      description: '`stop`, `length`, `tool_calls`, `content_filter`, `stopped` or `other`',
    }),
    usage: Type.Optional(Usage),
    state: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), {
        description: 'With tool calls: what the provider wants back in the next request',
      }),
    ),
    targets: Type.Optional(
      Type.Array(Type.String(), { description: 'Targets that answered, if there was more than one' }),
    ),
  },
  { description: 'Last event of a complete or stopped answer' },
);
const Failure = Type.Object(
  {
    type: Type.Literal('error'),
    code: Type.String({ description: 'Stable code; see docs/errors.md' }),
    message: Type.String({ description: 'What is wrong and what to do' }),
    retryable: Type.Boolean({ description: 'True if the same question can succeed later' }),
    retryAfter: Type.Optional(Type.Integer({ description: 'Seconds' })),
    reason: Type.Optional(
      Type.String({
        description:
          'Why the provider refused the question: `context_length_exceeded`, `content_filter`, `unsupported_parameter`, `invalid_parameter`, `model_not_found`, `quota_exhausted` or `credentials`',
      }),
    ),
    stage: Type.Optional(
      Type.String({
        description: 'Only with `upstream_timeout`: `connect`, `headers`, `first_token`, `idle` or `total`',
      }),
    ),
  },
  { description: 'Last event of a failed answer. What came before it stays valid.' },
);

export const StreamEvent = Type.Union([Start, Delta, Reasoning, ToolCall, Status, End, Failure], {
  $id: 'StreamEvent',
  description:
    'Data of an unnamed event, as one line of JSON. The `id` of the event is `<stream>.<position>`, and `<stream>.end` for the last one.',
});
