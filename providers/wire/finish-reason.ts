import type { FinishReason } from '../types.ts';

/** Meaning of a provider's finish reason. `failure` is an error, although the status was 200. */
export type FinishClass = FinishReason | 'failure';

/** Finish reasons of all dialects in lower case, by their meaning. Unknown ones are `other`. */
const WORDS: Readonly<Record<Exclude<FinishClass, 'other'>, readonly string[]>> = {
  stop: ['stop', 'end_turn', 'stop_sequence', 'complete', 'completed', 'eos', 'eos_token', 'end_of_text', 'finished'],
  length: [
    'length',
    'max_tokens',
    'max_output_tokens',
    'max_length',
    'model_length',
    'model_context_window_exceeded',
    'context_length_exceeded',
    'context_window_exceeded',
    'error_limit', // Cohere
  ],
  tool_calls: ['tool_calls', 'tool_use', 'tool_call', 'function_call', 'function_calls'],
  content_filter: [
    'content_filter',
    'content_filtered',
    'error_toxic', // Cohere
    'sensitive',
    'safety',
    'recitation',
    'language',
    'blocklist',
    'prohibited_content',
    'spii',
    'image_safety',
    'image_prohibited_content',
    'image_recitation',
    'guardrail_intervened',
    'refusal',
  ],
  failure: [
    'error',
    'error_finish', // DashScope
    'abort', // vLLM, SGLang
    'aborted',
    'cancelled',
    'canceled',
    'failed',
    'timeout',
    'network_error', // Z.ai
    'insufficient_system_resource', // DeepSeek
    'server_error',
    'internal_error',
    'overloaded',
    'malformed_function_call', // Gemini, from here on
    'malformed_response',
    'unexpected_tool_call',
    'too_many_tool_calls',
    'missing_thought_signature',
  ],
};

const CLASSES: ReadonlyMap<string, FinishClass> = new Map(
  Object.entries(WORDS).flatMap(([meaning, words]) => words.map((word) => [word, meaning as FinishClass] as const)),
);

/** Returns the meaning of a finish reason in any case. Words that begin with `error` or `malformed` are failures. */
export function finishClass(raw: string): FinishClass {
  const word = raw.trim().toLowerCase();
  return CLASSES.get(word) ?? (/^(error|malformed)/.test(word) ? 'failure' : 'other');
}

/**
 * Returns the finish reason of a field; undefined if there is none yet. DashScope sends the text `null`, Bella an
 * empty one, and SGLang's native API an object with a `type`.
 */
export function finishWord(value: unknown): string | undefined {
  const word = typeof value === 'object' && value !== null ? (value as { type?: unknown }).type : value;
  if (typeof word !== 'string' || word.trim() === '' || word === 'null') return undefined;
  return word;
}
