import type { Usage } from '../../providers/types.ts';
import type { Prompt } from '../llm/client.ts';
import { CHARS_PER_TOKEN } from '../llm/continuation.ts';

/** Tokens of a generation: estimated before it runs, and as the provider counted them. Pure. */

/** Estimated tokens of an answer without a limit. */
const DEFAULT_ANSWER_TOKENS = 1_024;

/** Characters that an image counts as. */
const CHARS_PER_IMAGE = 4_096;

export interface Tokens {
  readonly input: number;
  /** Includes reasoning. */
  readonly output: number;
}

/** The tokens that a generation has used. Both parts together are charged. */
export interface TokenUse {
  readonly counted: Tokens;
  readonly estimated: Tokens;
}

/** Tokens that are charged when a generation begins. */
export interface TokenEstimate {
  readonly prompt: number;
  /** The answer included. */
  readonly total: number;
}

export const NO_TOKENS: Tokens = { input: 0, output: 0 };

/** Returns the tokens that a question may take. `limit` bounds the total. */
export function estimateTokens(prompt: Prompt, limit = Number.POSITIVE_INFINITY): TokenEstimate {
  const promptTokens = estimatePromptTokens(prompt);
  const total = promptTokens + (prompt.maxTokens ?? DEFAULT_ANSWER_TOKENS);
  return { prompt: promptTokens, total: Math.min(total, limit) };
}

/**
 * Returns the tokens that a generation has used: as the provider counted them. Without a count at least the estimate
 * is charged, because nobody knows how much hidden reasoning an answer had that was left or stopped.
 * @param characters length of the answer
 */
export function usedTokens(usage: Usage | undefined, characters: number, estimate: TokenEstimate): TokenUse {
  const inputTokens = countOf(usage?.inputTokens);
  const outputTokens = countOf(usage?.outputTokens);
  const totalTokens = countOf(usage?.totalTokens);
  if (totalTokens !== undefined) {
    const input = Math.min(inputTokens ?? estimate.prompt, totalTokens);
    return { counted: { input, output: totalTokens - input }, estimated: NO_TOKENS };
  }
  const rest = estimate.total - (inputTokens ?? estimate.prompt);
  const ofAnswer = Math.max(rest, Math.ceil(characters / CHARS_PER_TOKEN));
  return {
    counted: { input: inputTokens ?? 0, output: outputTokens ?? 0 },
    estimated: {
      input: inputTokens === undefined ? estimate.prompt : 0,
      output: outputTokens === undefined ? ofAnswer : 0,
    },
  };
}

/** Returns the same tokens, with those of `uncounted` among the estimated ones. */
export function withUncounted({ counted, estimated }: TokenUse, uncounted: Tokens = NO_TOKENS): TokenUse {
  const input = Math.min(counted.input, uncounted.input);
  const output = Math.min(counted.output, uncounted.output);
  return {
    counted: { input: counted.input - input, output: counted.output - output },
    estimated: { input: estimated.input + input, output: estimated.output + output },
  };
}

export function sumOf({ counted, estimated }: TokenUse): number {
  return counted.input + counted.output + estimated.input + estimated.output;
}

/** Returns a count of a provider; undefined for one that cannot be a number of tokens. */
function countOf(count: number | undefined): number | undefined {
  return count !== undefined && count >= 0 && Number.isFinite(count) ? count : undefined;
}

function estimatePromptTokens({ messages, tools = [] }: Prompt): number {
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
