import type { FinishReason } from '../types.ts';

const REASONS: Record<string, FinishReason> = {
  stop: 'stop',
  length: 'length',
  max_tokens: 'length',
  model_length: 'length',
  tool_calls: 'tool_calls',
  function_call: 'tool_calls',
  content_filter: 'content_filter',
  sensitive: 'content_filter',
  refusal: 'content_filter',
};

/** Finish reasons that mean "this answer failed" although the status was 200. */
const FAILED = new Set(['error', 'network_error', 'insufficient_system_resource']);

export function finishReason(raw: string): FinishReason | 'error' {
  const word = raw.toLowerCase();
  return FAILED.has(word) ? 'error' : (REASONS[word] ?? 'other');
}
