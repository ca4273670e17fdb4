import { Type } from '@sinclair/typebox';

/** What SSE paths send, for the reference. Tests hold it against real streams. */

const Usage = Type.Object({
  inputTokens: Type.Optional(Type.Integer()),
  outputTokens: Type.Optional(Type.Integer()),
  totalTokens: Type.Optional(Type.Integer()),
  cachedTokens: Type.Optional(Type.Integer()),
  reasoningTokens: Type.Optional(Type.Integer()),
});

const Start = Type.Object(
  {
    type: Type.Literal('start'),
    stream: Type.String(),
    model: Type.String({ description: 'Public name of the model' }),
    url: Type.String({ description: 'Reads the stream again; DELETE ends it. Carries a ticket where keys are on' }),
    resumable: Type.Boolean({ description: 'Whether a reader that is cut off can come back' }),
  },
  { description: 'The first event; it leaves before the model has answered' },
);
const Delta = Type.Object({ type: Type.Literal('delta'), content: Type.String() }, { description: 'Text to append' });
const Reasoning = Type.Object(
  { type: Type.Literal('reasoning'), content: Type.String() },
  { description: 'Thinking, where the provider sends it' },
);
const ToolCall = Type.Object(
  {
    type: Type.Literal('tool_call'),
    index: Type.Integer(),
    id: Type.Optional(Type.String()),
    name: Type.Optional(Type.String()),
    arguments: Type.String({ description: 'A fragment of JSON' }),
  },
  { description: "Fragments, as OpenAI's `tool_calls` deltas" },
);
const Status = Type.Object(
  { type: Type.Literal('status'), resumable: Type.Boolean() },
  { description: 'Whether the stream can be resumed has changed; without an id' },
);
const End = Type.Object(
  {
    type: Type.Literal('end'),
    answer: Type.String({ description: 'The whole text' }),
    model: Type.String(),
    finishReason: Type.String({ description: '`stop`, `length`, `tool_calls`, `content_filter`, `stopped`, `other`' }),
    usage: Type.Optional(Usage),
    targets: Type.Optional(Type.Array(Type.String(), { description: 'Who answered, where it took more than one' })),
  },
  { description: 'The last event' },
);
const Failure = Type.Object(
  {
    type: Type.Literal('error'),
    code: Type.String(),
    message: Type.String(),
    retryable: Type.Boolean(),
    retryAfter: Type.Optional(Type.Integer({ description: 'Seconds' })),
    stage: Type.Optional(
      Type.String({ description: 'Of `upstream_timeout`: connect, headers, first_token, idle, total' }),
    ),
  },
  { description: 'The last event instead of `end`; what came before it stays valid' },
);

export const EVENTS = {
  StreamEvent: Type.Union([Start, Delta, Reasoning, ToolCall, Status, End, Failure], {
    description:
      'One line of JSON in `data` of an unnamed event. `id` is `<stream>.<position>`, of the last one `<stream>.end`',
  }),
  ChatCompletionChunk: Type.Object(
    {
      id: Type.String(),
      object: Type.Literal('chat.completion.chunk'),
      created: Type.Integer(),
      model: Type.String(),
      choices: Type.Array(Type.Any()),
      usage: Type.Optional(Type.Any()),
    },
    { description: "OpenAI's chunk; the last event is `[DONE]`" },
  ),
  UiMessageChunk: Type.Object(
    { type: Type.String() },
    { description: "A chunk of the Vercel AI SDK's UI message stream; the last event is `[DONE]`" },
  ),
};

export const ERRORS = {
  Error: Type.Object(
    {
      error: Type.Object({
        code: Type.String({ description: 'Stable; see docs/errors.md' }),
        message: Type.String({ description: 'What is wrong, and what to do' }),
        requestId: Type.String(),
      }),
    },
    { description: 'Every refusal outside of `/v1`' },
  ),
  OpenAIError: Type.Object(
    {
      error: Type.Object({
        message: Type.String(),
        type: Type.String(),
        param: Type.Union([Type.String(), Type.Null()]),
        code: Type.Union([Type.String(), Type.Null()]),
      }),
    },
    { description: 'Every refusal under `/v1`' },
  ),
};
