import { createHash } from 'node:crypto';
import type { ChatMessage } from '../types.ts';

/**
 * Ids of tool calls across providers. A conversation may go on at another provider, which may refuse the ids of the
 * first one. The same id is changed in the same way in a call and in its result.
 */

export interface ToolIdRule {
  /** Ids that the provider accepts. */
  readonly pattern: RegExp;
  /** Length of the ids that replace others, at most 43. */
  readonly length: number;
}

/** Anthropic's documented pattern. */
export const ANTHROPIC_TOOL_IDS: ToolIdRule = { pattern: /^[a-zA-Z0-9_-]{1,64}$/, length: 24 };
/** OpenAI refuses longer ids; others have no known rule. */
export const OPENAI_TOOL_IDS: ToolIdRule = { pattern: /^.{1,64}$/s, length: 24 };
/** Mistral: exactly nine letters and digits (langchain-ai/langchain#24668). */
export const MISTRAL_TOOL_IDS: ToolIdRule = { pattern: /^[a-zA-Z0-9]{9}$/, length: 9 };

/** Returns the messages with ids that the provider accepts. */
export function withToolIds(messages: readonly ChatMessage[], rule: ToolIdRule): readonly ChatMessage[] {
  return messages.map((message) => {
    if (message.role === 'tool') return { ...message, toolCallId: toolIdFor(message.toolCallId, rule) };
    if (message.role !== 'assistant' || message.toolCalls === undefined) return message;
    return { ...message, toolCalls: message.toolCalls.map((call) => ({ ...call, id: toolIdFor(call.id, rule) })) };
  });
}

/** Returns the id itself if the provider accepts it, else letters and digits made from its hash. */
export function toolIdFor(id: string, { pattern, length }: ToolIdRule): string {
  if (pattern.test(id)) return id;
  return createHash('sha256')
    .update(id)
    .digest('base64')
    .replace(/[^a-zA-Z0-9]/g, '0')
    .slice(0, length);
}
