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
/** Chat Completions of OpenAI and Azure: at most 40 characters (Portkey-AI/gateway#1062, anomalyco/opencode#12653). */
export const OPENAI_TOOL_IDS: ToolIdRule = { pattern: /^.{1,40}$/s, length: 24 };
/** Responses of OpenAI and Azure: at most 64 characters (AnswerDotAI/fastllm#45). */
export const RESPONSES_TOOL_IDS: ToolIdRule = { pattern: /^.{1,64}$/s, length: 24 };
/** Mistral: exactly nine letters and digits (langchain-ai/langchain#24668). */
export const MISTRAL_TOOL_IDS: ToolIdRule = { pattern: /^[a-zA-Z0-9]{9}$/, length: 9 };
/** Any id: gateways have no rule of their own, and some want long ids back, which hold a signature (LiteLLM). */
export const ANY_TOOL_ID: ToolIdRule = { pattern: /^/, length: 24 };

/**
 * Length from which the state of an answer marks an id. Its provider then gets it back unchanged, whatever its rule
 * says: a provider that makes longer ids is a gateway under another name.
 */
const MIN_MARKED_CHARS = 41;

/** Returns true for an id that the state of its answer has to mark. */
export function isMarkedId(id: string): boolean {
  return id.length >= MIN_MARKED_CHARS;
}

/** Returns the messages with ids that the provider accepts, no two of them alike. */
export function withToolIds(messages: readonly ChatMessage[], rule: ToolIdRule): readonly ChatMessage[] {
  const ids = new Set<string>();
  const own = new Set<string>();
  for (const message of messages) {
    if (message.role === 'tool') ids.add(message.toolCallId);
    if (message.role !== 'assistant') continue;
    for (const [index, { id }] of (message.toolCalls ?? []).entries()) {
      ids.add(id);
      if (isMarkedId(id) && message.state?.extraContent?.[index] !== undefined) own.add(id);
    }
  }
  const isAccepted = (id: string) => own.has(id) || rule.pattern.test(id);
  const used = new Set([...ids].filter(isAccepted));
  const replaced = new Map<string, string>();
  for (const id of ids) {
    if (isAccepted(id)) continue;
    let other = hashOf(id, rule.length);
    for (let n = 1; used.has(other); n += 1) other = hashOf(`${id}\n${n}`, rule.length);
    used.add(other);
    replaced.set(id, other);
  }
  if (replaced.size === 0) return messages;
  const idFor = (id: string) => replaced.get(id) ?? id;
  return messages.map((message) => {
    if (message.role === 'tool') return { ...message, toolCallId: idFor(message.toolCallId) };
    if (message.role !== 'assistant' || message.toolCalls === undefined) return message;
    return { ...message, toolCalls: message.toolCalls.map((call) => ({ ...call, id: idFor(call.id) })) };
  });
}

/** Returns letters and digits made from a hash. */
function hashOf(id: string, length: number): string {
  return createHash('sha256')
    .update(id)
    .digest('base64')
    .replace(/[^a-zA-Z0-9]/g, '0')
    .slice(0, length);
}
