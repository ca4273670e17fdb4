import { type Static, Type } from '@sinclair/typebox';
import { ModelName, sampling } from '../chat-request.ts';

/** What the AI SDK's `DefaultChatTransport` posts, and what its `body` option may add to it. */

export const CHAT_ID = '^[A-Za-z0-9_.:-]{1,100}$';

const UiPart = Type.Object({ type: Type.String({ minLength: 1, maxLength: 256 }) });

const UiMessage = Type.Object({
  id: Type.Optional(Type.String({ maxLength: 256 })),
  role: Type.Unsafe<'system' | 'user' | 'assistant'>({ type: 'string', enum: ['system', 'user', 'assistant'] }),
  parts: Type.Array(UiPart, { maxItems: 10_000 }),
});

const Tool = Type.Object({
  name: Type.String({ pattern: '^[A-Za-z0-9_.:-]{1,128}$' }),
  description: Type.Optional(Type.String()),
  parameters: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
});

export const UiBody = Type.Object({
  id: Type.Optional(Type.String({ pattern: CHAT_ID, description: "The client's id of the conversation" })),
  messages: Type.Array(UiMessage, { minItems: 1, maxItems: 10_000 }),
  model: Type.Optional(ModelName),
  ...sampling,
  tools: Type.Optional(Type.Array(Tool, { maxItems: 1_000 })),
  resumable: Type.Optional(Type.Boolean()),
});

export type UiBody = Static<typeof UiBody>;
