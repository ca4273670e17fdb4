import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { LastEventId, ModelName, Resumable, sampling, Ticket } from '../chat-request.ts';
import { Usage } from '../event-schema.ts';

/** The body that the AI SDK's `DefaultChatTransport` posts, and the chunks that it reads. */

const CHAT_ID = { pattern: '^[A-Za-z0-9_.:-]{1,100}$', description: "The client's id of the conversation" };

export const ReplayParams = Type.Object({
  id: Type.String({ ...CHAT_ID, description: "The client's id of the conversation, or the id of the stream" }),
});

export const ReplayQuery = Type.Object({
  startIndex: Type.Optional(
    Type.String({
      pattern: '^-?[0-9]{1,9}$',
      description:
        'Number of chunks that the client has. Negative: number of chunks before the end so far; `X-Workflow-Stream-Tail-Index` is then the index of the last one.',
    }),
  ),
  lastEventId: LastEventId,
  ticket: Ticket,
});

const UiPart = Type.Object(
  { type: Type.String({ minLength: 1, maxLength: 256 }) },
  {
    description:
      'Models receive `text`, `reasoning`, tool parts, and `file` parts that are images or PDFs with an https: or data: URL. Other parts are ignored.',
  },
);

const UiMessage = Type.Object({
  id: Type.Optional(Type.String({ maxLength: 256 })),
  role: Type.Unsafe<'system' | 'user' | 'assistant'>({ type: 'string', enum: ['system', 'user', 'assistant'] }),
  parts: Type.Array(UiPart, { maxItems: 10_000 }),
});

const Tool = Type.Object({
  name: Type.String({ pattern: '^[A-Za-z0-9_.:-]{1,128}$' }),
  description: Type.Optional(Type.String()),
  parameters: Type.Optional(Type.Record(Type.String(), Type.Unknown(), { description: 'JSON Schema' })),
});

/** Returns the body of `POST /ui/chat`. Apart from `id` and `messages`, fields come from the client's `body` option. */
export function uiBody(maxMessages: number) {
  return Type.Object(
    {
      id: Type.Optional(Type.String(CHAT_ID)),
      messages: Type.Array(UiMessage, { minItems: 1, maxItems: maxMessages }),
      model: Type.Optional(ModelName),
      ...sampling,
      tools: Type.Optional(Type.Array(Tool, { maxItems: 1_000 })),
      toolChoice: Type.Optional(
        Type.Union([
          Type.Unsafe<'auto' | 'none' | 'required'>({ type: 'string', enum: ['auto', 'none', 'required'] }),
          Type.Object({ name: Type.String({ minLength: 1, maxLength: 128 }) }, { additionalProperties: false }),
        ]),
      ),
      resumable: Type.Optional(Resumable),
      trigger: Type.Optional(Type.String({ maxLength: 256, description: 'Sent by the AI SDK; has no effect' })),
      messageId: Type.Optional(Type.String({ maxLength: 256, description: 'Sent by the AI SDK; has no effect' })),
    },
    { additionalProperties: false },
  );
}

export type UiBody = Static<ReturnType<typeof uiBody>>;

const chunk = <T extends Record<string, TSchema>>(type: string, fields: T) =>
  Type.Object({ type: Type.Literal(type), ...fields });
const text = Type.String();
const toolCall = { toolCallId: text, toolName: text };

const Metadata = Type.Optional(
  Type.Record(Type.String(), Type.Unknown(), {
    description: 'What the provider wants back; the AI SDK sends it in the next request',
  }),
);

export const UiMessageChunk = Type.Union(
  [
    chunk('start', {
      messageId: text,
      messageMetadata: Type.Object({
        stream: Type.String({ description: 'Id of the stream' }),
        url: Type.String({ description: "Reads the stream in Sluice's own form; `DELETE` stops it" }),
        stopUrl: Type.String({ description: 'Stops the answer when a POST is sent to it' }),
        model: Type.String({ description: 'Public name of the model' }),
      }),
    }),
    chunk('start-step', {}),
    chunk('text-start', { id: text }),
    chunk('text-delta', { id: text, delta: text }),
    chunk('text-end', { id: text }),
    chunk('reasoning-start', { id: text }),
    chunk('reasoning-delta', { id: text, delta: text }),
    chunk('reasoning-end', { id: text }),
    chunk('tool-input-start', toolCall),
    chunk('tool-input-delta', { toolCallId: text, inputTextDelta: text }),
    chunk('tool-input-available', { ...toolCall, input: Type.Unknown(), providerMetadata: Metadata }),
    chunk('tool-input-error', { ...toolCall, input: Type.Unknown(), errorText: text, providerMetadata: Metadata }),
    chunk('finish-step', {}),
    chunk('finish', { finishReason: text, messageMetadata: Type.Optional(Type.Object({ usage: Usage })) }),
    chunk('error', { errorText: text }),
  ],
  { $id: 'UiMessageChunk', description: "Chunk of the Vercel AI SDK's UI message stream. The last event is `[DONE]`." },
);
