/**
 * The treatment of each option of a request by each API, by the names of Chat Completions:
 *
 * - `mapped`: it reaches the provider.
 * - `unfit`: the API cannot express it and it would change the answer. Another target is asked, else the client gets 400.
 * - `hint`: it is left out, because the answer is right without it.
 *
 * The test of this table calls every provider with every option, and `docs/providers.md` repeats it.
 */

export type Api = 'chat' | 'responses' | 'anthropic' | 'gemini' | 'ollama' | 'demo';
export type Verdict = 'mapped' | 'unfit' | 'hint';

const APIS: readonly Api[] = ['chat', 'responses', 'anthropic', 'gemini', 'ollama', 'demo'];

const row = (...verdicts: [Verdict, Verdict, Verdict, Verdict, Verdict, Verdict]) =>
  Object.fromEntries(APIS.map((api, i) => [api, verdicts[i]])) as Record<Api, Verdict>;

/** Verdicts in the order chat, responses, anthropic, gemini, ollama, demo. */
export const OPTION_TABLE: Readonly<Record<string, Readonly<Record<Api, Verdict>>>> = {
  temperature: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  top_p: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  max_tokens: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  stop: row('mapped', 'unfit', 'mapped', 'mapped', 'mapped', 'hint'),
  tools: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  'tool_choice: none': row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  'tool_choice: required': row('mapped', 'mapped', 'mapped', 'mapped', 'unfit', 'unfit'),
  'tool_choice: function': row('mapped', 'mapped', 'mapped', 'mapped', 'unfit', 'unfit'),
  'parallel_tool_calls: false': row('mapped', 'mapped', 'mapped', 'unfit', 'unfit', 'hint'),
  'response_format: json_object': row('mapped', 'mapped', 'unfit', 'mapped', 'mapped', 'unfit'),
  'response_format: json_schema': row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'unfit'),
  reasoning_effort: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  reasoning: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  thinking: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  enable_thinking: row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  verbosity: row('mapped', 'mapped', 'hint', 'hint', 'hint', 'hint'),
  seed: row('mapped', 'hint', 'hint', 'mapped', 'mapped', 'hint'),
  top_k: row('mapped', 'hint', 'mapped', 'mapped', 'mapped', 'hint'),
  min_p: row('mapped', 'hint', 'hint', 'hint', 'mapped', 'hint'),
  frequency_penalty: row('mapped', 'hint', 'hint', 'mapped', 'mapped', 'hint'),
  presence_penalty: row('mapped', 'hint', 'hint', 'mapped', 'mapped', 'hint'),
  repetition_penalty: row('mapped', 'hint', 'hint', 'hint', 'mapped', 'hint'),
  logit_bias: row('mapped', 'unfit', 'unfit', 'unfit', 'unfit', 'hint'),
  prediction: row('mapped', 'hint', 'hint', 'hint', 'hint', 'hint'),
  user: row('mapped', 'mapped', 'hint', 'hint', 'hint', 'hint'),
  safety_identifier: row('mapped', 'mapped', 'hint', 'hint', 'hint', 'hint'),
  metadata: row('mapped', 'mapped', 'hint', 'hint', 'hint', 'hint'),
  store: row('mapped', 'hint', 'hint', 'hint', 'hint', 'hint'),
  service_tier: row('mapped', 'mapped', 'hint', 'hint', 'hint', 'hint'),
  prompt_cache_key: row('mapped', 'mapped', 'hint', 'hint', 'hint', 'hint'),
  prompt_cache_retention: row('mapped', 'mapped', 'hint', 'hint', 'hint', 'hint'),
  cache_control: row('mapped', 'hint', 'mapped', 'hint', 'hint', 'hint'),
  'image by data: URL': row('mapped', 'mapped', 'mapped', 'mapped', 'mapped', 'hint'),
  'image by https: URL': row('mapped', 'mapped', 'mapped', 'mapped', 'unfit', 'hint'),
  // Chat Completions: only of `openai`, `azure` and `openrouter`.
  'file by data: URL': row('mapped', 'mapped', 'mapped', 'mapped', 'unfit', 'unfit'),
  // Chat Completions: only of `openrouter`.
  'file by https: URL': row('mapped', 'mapped', 'mapped', 'mapped', 'unfit', 'unfit'),
  /** Every option that is not in this table. */
  'unknown options': row('mapped', 'unfit', 'unfit', 'unfit', 'mapped', 'unfit'),
};
