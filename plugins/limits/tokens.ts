import type { Usage } from '../../providers/types.ts';
import type { Prompt } from '../llm/client.ts';

/** Estimates tokens until the provider has counted them. Pure. */

/** Characters per token in English. Other scripts have fewer; the provider's count is charged at the end. */
const CHARS_PER_TOKEN = 4;
/** Estimated tokens of an answer without a limit. */
const DEFAULT_ANSWER_TOKENS = 1_024;

/** Characters that an image counts as. */
const CHARS_PER_IMAGE = 4_096;

/** Returns the tokens that a question may take, its answer included. */
export function estimateTokens(prompt: Prompt): number {
  return estimatePromptTokens(prompt) + (prompt.maxTokens ?? DEFAULT_ANSWER_TOKENS);
}

/**
 * Returns the used tokens: as the provider counted them, else by the length of prompt and answer.
 * @param promptTokens result of `estimatePromptTokens`
 */
export function usedTokens(usage: Usage | undefined, promptTokens: number, characters: number): number {
  const { inputTokens, outputTokens, totalTokens } = usage ?? {};
  if (totalTokens !== undefined) return totalTokens;
  return (inputTokens ?? promptTokens) + (outputTokens ?? Math.ceil(characters / CHARS_PER_TOKEN));
}

export function estimatePromptTokens({ messages, tools = [] }: Prompt): number {
  const characters = messages.reduce((sum, message) => sum + messageLength(message), JSON.stringify(tools).length);
  return Math.ceil(characters / CHARS_PER_TOKEN);
}

function messageLength(message: Prompt['messages'][number]): number {
  const { content } = message;
  if (message.role === 'assistant') {
    const calls = message.toolCalls ?? [];
    return calls.reduce((sum, call) => sum + call.arguments.length, content.length + (message.reasoning?.length ?? 0));
  }
  if (typeof content === 'string') return content.length;
  return content.reduce((sum, block) => sum + (block.type === 'text' ? block.text.length : CHARS_PER_IMAGE), 0);
}
