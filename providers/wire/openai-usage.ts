import type { Usage } from '../types.ts';
import { usageFrom } from './counts.ts';

type Counts = Record<string, unknown>;

/** An OpenAI-like usage object, wherever its maker keeps the details; undefined if nothing is counted. */
export function openAIUsage(raw: unknown): Usage | undefined {
  if (typeof raw !== 'object' || raw === null) return undefined;
  const given = raw as Counts;
  const completion = (given.completion_tokens_details ?? {}) as Counts;
  const prompt = (given.prompt_tokens_details ?? {}) as Counts;
  return usageFrom({
    inputTokens: given.prompt_tokens,
    outputTokens: given.completion_tokens,
    totalTokens: given.total_tokens,
    reasoningTokens: completion.reasoning_tokens ?? given.reasoning_tokens,
    // In turn OpenAI's name for it, DeepSeek's and Bella's.
    cachedTokens: prompt.cached_tokens ?? given.prompt_cache_hit_tokens ?? counted(given.cache_read_tokens),
    cacheWriteTokens: counted(given.cache_creation_tokens),
  });
}

/** Bella writes 0 wherever the channel behind it counts nothing. */
function counted(value: unknown): unknown {
  return value === 0 ? undefined : value;
}
