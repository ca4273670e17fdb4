import type { Usage } from '../types.ts';

type Counts = Record<string, unknown>;

/** An OpenAI-like usage object, wherever its maker keeps the details; undefined if nothing is counted. */
export function openAIUsage(raw: unknown): Usage | undefined {
  if (typeof raw !== 'object' || raw === null) return undefined;
  const counts = raw as Counts;
  const completion = (counts.completion_tokens_details ?? {}) as Counts;
  const prompt = (counts.prompt_tokens_details ?? {}) as Counts;
  const usage = {
    ...count('inputTokens', counts.prompt_tokens),
    ...count('outputTokens', counts.completion_tokens),
    ...count('totalTokens', counts.total_tokens),
    ...count('reasoningTokens', completion.reasoning_tokens ?? counts.reasoning_tokens),
    ...count('cachedTokens', prompt.cached_tokens ?? counts.prompt_cache_hit_tokens), // DeepSeek's own name
  };
  return Object.keys(usage).length > 0 ? usage : undefined;
}

function count(name: keyof Usage, value: unknown): Usage {
  return typeof value === 'number' ? { [name]: value } : {};
}
