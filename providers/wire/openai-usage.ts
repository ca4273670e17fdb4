import type { Usage } from '../types.ts';
import { nonZero, usageFrom } from './counts.ts';

type Counts = Record<string, unknown>;

/** Converts a usage object in OpenAI's format or a variant of it; undefined if it contains no counts. */
export function openAIUsage(raw: unknown): Usage | undefined {
  if (typeof raw !== 'object' || raw === null) return undefined;
  const counts = raw as Counts;
  const completion = (counts.completion_tokens_details ?? {}) as Counts;
  const prompt = (counts.prompt_tokens_details ?? {}) as Counts;
  const reasoningTokens = completion.reasoning_tokens ?? counts.reasoning_tokens;
  return usageFrom({
    inputTokens: counts.prompt_tokens,
    outputTokens: outputTokens(counts, reasoningTokens),
    totalTokens: counts.total_tokens,
    reasoningTokens,
    // The names of OpenAI, DeepSeek, Moonshot and Bella, in this order.
    cachedTokens:
      prompt.cached_tokens ??
      counts.prompt_cache_hit_tokens ??
      counts.cached_tokens ??
      nonZero(counts.cache_read_tokens),
    // The names of OpenAI and Bella. Most providers write to no cache, and send 0.
    cacheWriteTokens: nonZero(prompt.cache_write_tokens) ?? nonZero(counts.cache_creation_tokens),
  });
}

/** Converts a usage object of the Responses API; undefined if it contains no counts. */
export function responsesUsage(raw: unknown): Usage | undefined {
  if (typeof raw !== 'object' || raw === null) return undefined;
  const counts = raw as Counts;
  const input = (counts.input_tokens_details ?? {}) as Counts;
  const output = (counts.output_tokens_details ?? {}) as Counts;
  return usageFrom({
    inputTokens: counts.input_tokens,
    outputTokens: counts.output_tokens,
    totalTokens: counts.total_tokens,
    reasoningTokens: output.reasoning_tokens,
    cachedTokens: input.cached_tokens,
    cacheWriteTokens: nonZero(input.cache_write_tokens),
  });
}

/** xAI counts reasoning in the total only. It is part of the output everywhere else, and is paid as output. */
function outputTokens(counts: Counts, reasoning: unknown): unknown {
  const { prompt_tokens: input, completion_tokens: output, total_tokens: total } = counts;
  if (typeof input !== 'number' || typeof output !== 'number' || typeof reasoning !== 'number') return output;
  return total === input + output + reasoning ? output + reasoning : output;
}
