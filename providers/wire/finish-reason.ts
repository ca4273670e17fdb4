import type { FinishPart, FinishReason, Usage } from '../types.ts';

const REASONS: Record<string, FinishReason> = {
  stop: 'stop',
  end_turn: 'stop',
  stop_sequence: 'stop',
  complete: 'stop',
  length: 'length',
  max_tokens: 'length',
  model_length: 'length',
  tool_calls: 'tool_calls',
  tool_use: 'tool_calls',
  tool_call: 'tool_calls',
  function_call: 'tool_calls',
  content_filter: 'content_filter',
  sensitive: 'content_filter',
  safety: 'content_filter',
  image_safety: 'content_filter',
  recitation: 'content_filter',
  blocklist: 'content_filter',
  prohibited_content: 'content_filter',
  spii: 'content_filter',
  guardrail_intervened: 'content_filter',
  refusal: 'content_filter',
};

/** Finish reasons that mean "this answer failed" although the status was 200. */
const FAILED = new Set(['error', 'network_error', 'insufficient_system_resource']);

export function finishReason(raw: string): FinishReason | 'error' {
  const word = raw.toLowerCase();
  return FAILED.has(word) ? 'error' : (REASONS[word] ?? 'other');
}

/** The last part. Gemini and Ollama end with `stop` where the model calls tools. */
export function finishPart(rawReason: string | undefined, usage: Usage | undefined, called = false): FinishPart {
  const reason = finishReason(rawReason ?? 'stop');
  return {
    type: 'finish',
    reason: reason === 'error' ? 'other' : reason === 'stop' && called ? 'tool_calls' : reason,
    ...(rawReason !== undefined && { rawReason }),
    ...(usage && { usage }),
  };
}
