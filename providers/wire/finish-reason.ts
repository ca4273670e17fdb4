import type { FinishPart, FinishReason, Usage } from '../types.ts';

const FINISH_REASONS: Record<string, FinishReason> = {
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

/** Finish reasons of a failed answer, although the HTTP status was 200. */
const FAILURE_REASONS = new Set(['error', 'network_error', 'insufficient_system_resource']);

/**
 * Maps a provider's finish reason, in any case; `error` if the answer failed, `other` if the reason is unknown.
 */
export function finishReason(raw: string): FinishReason | 'error' {
  const normalized = raw.toLowerCase();
  return FAILURE_REASONS.has(normalized) ? 'error' : (FINISH_REASONS[normalized] ?? 'other');
}

/**
 * Returns the finish part. Without a reason it is `stop`.
 * @param hasToolCalls turns `stop` into `tool_calls`: Gemini and Ollama send `stop` after tool calls, too
 */
export function finishPart(rawReason: string | undefined, usage: Usage | undefined, hasToolCalls = false): FinishPart {
  const reason = finishReason(rawReason ?? 'stop');
  return {
    type: 'finish',
    reason: reason === 'error' ? 'other' : reason === 'stop' && hasToolCalls ? 'tool_calls' : reason,
    ...(rawReason !== undefined && { rawReason }),
    ...(usage && { usage }),
  };
}
