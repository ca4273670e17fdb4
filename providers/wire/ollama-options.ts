import type { ChatRequest } from '../types.ts';
import { OPTION_TABLE } from './option-table.ts';
import { type Reasoning, reasoningOf } from './reasoning.ts';

/** Options of Chat Completions, and their names among Ollama's model options. */
const MODEL_OPTIONS: Readonly<Record<string, string>> = {
  seed: 'seed',
  top_k: 'top_k',
  min_p: 'min_p',
  frequency_penalty: 'frequency_penalty',
  presence_penalty: 'presence_penalty',
  repetition_penalty: 'repeat_penalty',
};

/**
 * Returns the options of a chat request to Ollama. Options that Sluice does not know, such as `num_ctx`, are Ollama's own
 * model options.
 */
export function ollamaOptions(request: ChatRequest): Record<string, unknown> {
  const { options = {}, forward = [] } = request;
  const modelOptions: Record<string, unknown> = {
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { top_p: request.topP }),
    ...(request.maxTokens !== undefined && { num_predict: request.maxTokens }),
    ...(request.stop !== undefined && { stop: request.stop }),
  };
  const forwarded: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(options)) {
    const ownName = MODEL_OPTIONS[name];
    if (forward.includes(name)) forwarded[name] = value;
    else if (ownName !== undefined) modelOptions[ownName] = value;
    else if (!(name in OPTION_TABLE) && name !== 'response_format' && name !== 'parallel_tool_calls') {
      modelOptions[name] = value;
    }
  }
  const reasoning = reasoningOf(options);
  const format = options.response_format as { type?: string; json_schema?: { schema?: unknown } } | undefined;
  return {
    ...forwarded,
    ...(Object.keys(modelOptions).length > 0 && { options: modelOptions }),
    ...(format?.type === 'json_object' && { format: 'json' }),
    ...(format?.type === 'json_schema' && { format: format.json_schema?.schema ?? 'json' }),
    ...(reasoning && { think: thinkOf(request.model, reasoning) }),
  };
}

/** gpt-oss takes a level and no boolean: https://docs.ollama.com/capabilities/thinking */
function thinkOf(model: string, { isEnabled, effort = 'medium' }: Reasoning): boolean | string {
  if (!model.includes('gpt-oss')) return isEnabled;
  if (!isEnabled || effort === 'minimal') return 'low';
  return ['low', 'medium'].includes(effort) ? effort : 'high';
}
