import type { Usage } from '../../providers/types.ts';
import type { Prompt } from '../llm/client.ts';
import { CHARS_PER_TOKEN } from '../llm/continuation.ts';

/** Estimates tokens until the provider has counted them. Pure. */

/** Estimated tokens of an answer without a limit. */
const DEFAULT_ANSWER_TOKENS = 1_024;

/** Characters that an image counts as. */
const CHARS_PER_IMAGE = 4_096;

/** Returns the tokens that a question may take, its answer included. */
export function estimateTokens(prompt: Prompt): number {
  return estimatePromptTokens(prompt) + (prompt.maxTokens ?? DEFAULT_ANSWER_TOKENS);
}

/**
 * Returns the tokens to charge: as the provider counted them. Without a count at least the estimate is charged,
 * because nobody knows how much hidden reasoning an answer had that was left or stopped.
 * @param promptTokens result of `estimatePromptTokens`
 * @param estimate result of `estimateTokens`
 */
export function chargedTokens(
  usage: Usage | undefined,
  promptTokens: number,
  characters: number,
  estimate: number,
): number {
  const { inputTokens, outputTokens, totalTokens } = usage ?? {};
  if (totalTokens !== undefined) return totalTokens;
  const ofAnswer = outputTokens ?? Math.ceil(characters / CHARS_PER_TOKEN);
  const sum = (inputTokens ?? promptTokens) + ofAnswer;
  return outputTokens === undefined ? Math.max(estimate, sum) : sum;
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
