import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { LastEventId, ModelName, Resumable, sampling, Ticket } from '../chat-request.ts';

/** The body of a run, the query of a resume, and the events of AG-UI 1.0. */

const Words = <T extends string[]>(...words: [...T]) => Type.Unsafe<T[number]>({ type: 'string', enum: words });

/** Names that clients choose. */
const ClientId = (description: string) => Type.String({ pattern: '^[^\\x00-\\x1f\\x7f]{1,255}$', description });
const RunId = ClientId('Id of the run, chosen by the client: the same id and input give the same run');
const ThreadId = ClientId("The client's id of the conversation");

const Id = Type.String({ maxLength: 1_024 });
/** Some gateways put signatures into the ids of tool calls, so they may be long. */
const ToolCallId = Type.String({ minLength: 1, maxLength: 8_192 });
const ToolName = Type.String({ pattern: '^[A-Za-z0-9_.:-]{1,128}$' });
const AnyFields = Type.Record(Type.String(), Type.Unknown());

const Source = Type.Object({
  type: Type.String({ maxLength: 64, description: '`data` (base64) or `url`' }),
  value: Type.String({ minLength: 1 }),
  mimeType: Type.Optional(Type.String({ maxLength: 256 })),
});

const ContentPart = Type.Object({
  type: Type.String({
    maxLength: 64,
    description: '`text`; also `image`, `document` (a PDF) and `binary` (either of them) in messages of the user',
  }),
  text: Type.Optional(Type.String()),
  source: Type.Optional(Source),
  mimeType: Type.Optional(Type.String({ maxLength: 256, description: 'Of a `binary` part' })),
  url: Type.Optional(Type.String({ description: 'Of a `binary` part' })),
  data: Type.Optional(Type.String({ description: 'Of a `binary` part: base64' })),
  filename: Type.Optional(Type.String({ maxLength: 256, description: 'Of a `binary` part' })),
  metadata: Type.Optional(Type.Unknown({ description: '`filename` is the name of a document' })),
});

const ToolCall = Type.Object({
  id: ToolCallId,
  function: Type.Object({ name: ToolName, arguments: Type.String() }),
  encryptedValue: Type.Optional(Type.String({ description: 'As an event has sent it: the provider wants it back' })),
});

const Content = Type.Union([Type.String({ minLength: 1 }), Type.Array(ContentPart, { minItems: 1, maxItems: 1_000 })]);

const AnyMessage = Type.Object({
  id: Type.Optional(Id),
  role: Words('developer', 'system', 'user', 'assistant', 'tool', 'reasoning', 'activity'),
  content: Type.Optional(Type.Unknown({ description: 'Text; also a list of parts in messages of users and tools' })),
  toolCalls: Type.Optional(Type.Array(ToolCall, { maxItems: 1_000 })),
  toolCallId: Type.Optional(ToolCallId),
  error: Type.Optional(Type.String({ description: 'Result of a tool that failed, if there is no content' })),
});

/** Sets fields of messages of some roles. A union of roles would give errors that name the wrong field. */
const ofRoles = (roles: string[], properties: Record<string, TSchema>, ...required: string[]) => ({
  if: { type: 'object', properties: { role: { enum: roles } } },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: { type: 'object', properties, required },
});

const Message = Type.Unsafe<Static<typeof AnyMessage>>({
  type: 'object',
  allOf: [
    AnyMessage,
    ofRoles(['user'], { content: Content }, 'content'),
    ofRoles(
      ['tool'],
      { content: Type.Union([Type.String(), Type.Array(ContentPart, { maxItems: 1_000 })]), toolCallId: ToolCallId },
      'toolCallId',
    ),
    ofRoles(['developer', 'system'], { content: Type.String({ minLength: 1 }) }, 'content'),
    ofRoles(['assistant'], { content: Type.Union([Type.String(), Type.Null()]) }),
    ofRoles(['reasoning'], { content: Type.String() }),
  ],
});

const Tool = Type.Object({
  name: ToolName,
  description: Type.Optional(Type.String()),
  parameters: Type.Optional(Type.Record(Type.String(), Type.Unknown(), { description: 'JSON Schema' })),
  metadata: Type.Optional(Type.Unknown({ description: 'Has no effect' })),
});

const Context = Type.Object({
  description: Type.String({ maxLength: 100_000 }),
  value: Type.String(),
});

const ForwardedProps = Type.Object(
  {
    model: Type.Optional(ModelName),
    ...sampling,
    toolChoice: Type.Optional(
      Type.Union([
        Words('auto', 'none', 'required'),
        Type.Object({ name: Type.String({ minLength: 1, maxLength: 128 }) }, { additionalProperties: false }),
      ]),
    ),
    resumable: Type.Optional(
      Type.Boolean({
        ...Resumable,
        default: true,
        description: `${Resumable.description} False: it ends with its client.`,
      }),
    ),
  },
  { additionalProperties: false, description: 'How to answer. Clients set it as `forwardedProps` or `body`.' },
);

/** Returns the body of `POST /agui`: the `RunAgentInput` of AG-UI. */
export function runInput(maxMessages: number) {
  const unused = (description: string) => Type.Optional(Type.Unknown({ description }));
  return Type.Object(
    {
      threadId: ThreadId,
      runId: RunId,
      parentRunId: unused('Has no effect'),
      protocolVersion: unused('Has no effect'),
      messages: Type.Array(Message, { minItems: 1, maxItems: maxMessages }),
      tools: Type.Optional(Type.Array(Tool, { maxItems: 1_000, description: 'Tools that the page runs' })),
      context: Type.Optional(
        Type.Array(Context, { maxItems: 1_000, description: 'Reaches the model as one system message' }),
      ),
      forwardedProps: Type.Optional(Type.Union([ForwardedProps, Type.Null()])),
      state: unused('Is not sent to the model: Sluice keeps no state of agents'),
      resume: Type.Optional(
        Type.Array(AnyFields, { maxItems: 0, description: 'Must be empty: runs of Sluice have no interrupts' }),
      ),
      data: unused('Copy of `forwardedProps` by TanStack AI; has no effect'),
    },
    { additionalProperties: false },
  );
}

export type RunInput = Static<ReturnType<typeof runInput>>;
export type RunMessage = RunInput['messages'][number];
export type RunContentPart = Static<typeof ContentPart>;

export const JoinQuery = Type.Object(
  {
    runId: Type.Optional(RunId),
    threadId: Type.Optional(ThreadId),
    offset: Type.Optional(
      Type.String({ description: '`-1` for the start of the run, or the id of the last received event' }),
    ),
    lastEventId: LastEventId,
    ticket: Ticket,
  },
  { additionalProperties: false },
);

const text = Type.String();
const event = <T extends Record<string, TSchema>>(type: string, fields: T) =>
  Type.Object({ type: Type.Literal(type), ...fields });
const message = { messageId: text };
const names = { threadId: text, runId: text };
const Metadata = <T extends Record<string, TSchema>>(fields: T) => Type.Object({ sluice: Type.Object(fields) });
const Counts = Type.Object({
  model: text,
  ...Object.fromEntries(
    ['inputTokens', 'outputTokens', 'totalTokens', 'reasoningTokens', 'cachedInputTokens', 'cacheWriteInputTokens'].map(
      (name) => [name, Type.Optional(Type.Integer())],
    ),
  ),
});

export const AguiEvent = Type.Union(
  [
    event('RUN_STARTED', {
      ...names,
      protocolVersion: text,
      metadata: Metadata({
        stream: Type.String({ description: 'Id of the stream' }),
        model: Type.String({ description: 'Public name of the model' }),
        url: Type.String({ description: "Reads the stream in Sluice's own form; `DELETE` stops it" }),
        stopUrl: Type.String({ description: 'Stops the run when a POST is sent to it' }),
      }),
    }),
    event('TEXT_MESSAGE_START', { ...message, role: Type.Literal('assistant') }),
    event('TEXT_MESSAGE_CONTENT', { ...message, delta: text }),
    event('TEXT_MESSAGE_END', message),
    event('REASONING_START', message),
    event('REASONING_MESSAGE_START', { ...message, role: Type.Literal('reasoning') }),
    event('REASONING_MESSAGE_CONTENT', { ...message, delta: text }),
    event('REASONING_MESSAGE_END', message),
    event('REASONING_END', message),
    event('REASONING_ENCRYPTED_VALUE', { subtype: Type.Literal('tool-call'), entityId: text, encryptedValue: text }),
    event('TOOL_CALL_START', { toolCallId: text, toolCallName: text, parentMessageId: text }),
    event('TOOL_CALL_ARGS', { toolCallId: text, delta: text }),
    event('TOOL_CALL_END', { toolCallId: text }),
    event('CUSTOM', { name: Type.Literal('tool-input-available'), value: Type.Unknown() }),
    event('RUN_FINISHED', {
      ...names,
      result: Type.Object({
        model: text,
        finishReason: text,
        usage: Type.Optional(Type.Unknown({ description: 'As in `end` of `/ask/stream`, with its cost' })),
        targets: Type.Optional(Type.Array(text)),
      }),
      outcome: Type.Optional(Type.Object({ type: Type.Literal('cancelled') })),
      usage: Type.Optional(Type.Array(Counts)),
    }),
    event('RUN_ERROR', {
      code: Type.String({ description: 'As in `error` of `/ask/stream`, or `incomplete_tool_call`' }),
      message: text,
      metadata: Metadata({
        retryable: Type.Boolean(),
        retryAfter: Type.Optional(Type.Integer({ description: 'Seconds' })),
        reason: Type.Optional(text),
        stage: Type.Optional(text),
      }),
    }),
  ],
  {
    $id: 'AguiEvent',
    description:
      'Event of AG-UI 1.0. Its SSE `id` is `<stream>.<position>`, `<stream>.<position>.<number>` or `<stream>.end`.',
  },
);

const Flags = <T extends string[]>(...flags: [...T]) =>
  Type.Object(Object.fromEntries(flags.map((name) => [name, Type.Boolean()])));

export const Capabilities = Type.Object(
  {
    identity: Type.Object({ name: text, type: text, description: text }),
    transport: Flags('streaming', 'websocket', 'httpBinary', 'pushNotifications', 'resumable'),
    tools: Flags('supported', 'clientProvided', 'parallelCalls'),
    output: Flags('structuredOutput'),
    state: Flags('snapshots', 'deltas', 'memory', 'persistentState'),
    multiAgent: Flags('supported'),
    reasoning: Flags('supported', 'streaming', 'encrypted'),
    multimodal: Type.Object({
      input: Flags('image', 'audio', 'video', 'pdf', 'file'),
      output: Flags('image', 'audio'),
    }),
    execution: Flags('codeExecution'),
    humanInTheLoop: Flags('supported'),
  },
  { description: 'Capabilities as AG-UI describes them' },
);
