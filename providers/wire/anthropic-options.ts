import type { ChatRequest, ToolChoice } from '../types.ts';
import type { ClaudeModel } from './claude-models.ts';
import { type Reasoning, reasoningOf } from './reasoning.ts';
import { isRecord } from './reasoning-details.ts';

/** Converts the options of a request to those of Anthropic's Messages API. */

/** Tokens of thinking for models that want a number, by the effort. */
const BUDGETS: Readonly<Record<string, number>> = { minimal: 1_024, low: 2_048, medium: 8_192, high: 24_576 };
const MIN_BUDGET = 1_024;
/** Tokens that are left for the answer if the request limits both together. */
const MIN_ANSWER = 1_024;

/**
 * Returns the options of a Messages request.
 * @param canThink false if the conversation lacks the thinking that the API wants back with its tool calls
 */
export function anthropicOptions(
  request: ChatRequest,
  model: ClaudeModel,
  sampling: ClaudeModel['sampling'],
  canThink: boolean,
): Record<string, unknown> {
  const { options = {}, toolChoice } = request;
  // The API refuses thinking with a forced tool.
  const isForced = toolChoice === 'required' || typeof toolChoice === 'object';
  const reasoning = reasoningOf(options);
  const maxTokens = request.maxTokens ?? model.maxTokens;
  const thinking = thinkingOf(reasoning, model, maxTokens, canThink && !isForced);
  const isThinking = thinking !== undefined && thinking.type !== 'disabled';
  const outputConfig = outputConfigOf(options, reasoning, model);
  return {
    max_tokens: maxTokens,
    ...samplingOf(request, isThinking && model.thinking === 'budget' ? 'none' : sampling),
    ...(request.stop !== undefined && { stop_sequences: request.stop }),
    ...(thinking && { thinking }),
    ...(outputConfig && { output_config: outputConfig }),
    ...(options.cache_control !== undefined && { cache_control: options.cache_control }),
    ...toolOptions(request),
  };
}

/** Returns `temperature`, `top_p` and `top_k`, as far as the model accepts them. */
function samplingOf({ temperature, topP, options = {} }: ChatRequest, sampling: ClaudeModel['sampling']): object {
  if (sampling === 'none') return {};
  const hasTopP = topP !== undefined && (sampling === 'both' || temperature === undefined);
  return {
    // Anthropic accepts 0 to 1, other APIs 0 to 2.
    ...(temperature !== undefined && { temperature: Math.min(temperature, 1) }),
    ...(hasTopP && { top_p: topP }),
    ...(options.top_k !== undefined && { top_k: options.top_k }),
  };
}

function thinkingOf(
  reasoning: Reasoning | undefined,
  model: ClaudeModel,
  maxTokens: number,
  canThink: boolean,
): { type: string; budget_tokens?: number; display?: string } | undefined {
  if (reasoning?.isEnabled === false || !canThink) return model.thinksByDefault ? { type: 'disabled' } : undefined;
  if (reasoning === undefined || model.thinking === 'none') return undefined;
  if (model.thinking === 'adaptive') return { type: 'adaptive', display: 'summarized' };
  const wanted = reasoning.budgetTokens ?? BUDGETS[reasoning.effort ?? 'medium'] ?? BUDGETS.high ?? MIN_BUDGET;
  const budget = Math.min(Math.max(wanted, MIN_BUDGET), maxTokens - MIN_ANSWER);
  return budget < MIN_BUDGET ? undefined : { type: 'enabled', budget_tokens: budget };
}

function outputConfigOf(
  options: Readonly<Record<string, unknown>>,
  reasoning: Reasoning | undefined,
  { efforts }: ClaudeModel,
): object | undefined {
  const format = options.response_format as { type?: string; json_schema?: { schema?: unknown } } | undefined;
  const config = {
    ...(efforts && reasoning?.effort !== undefined && { effort: effortOf(reasoning.effort, efforts) }),
    ...(format?.type === 'json_schema' && {
      format: { type: 'json_schema', schema: closed(format.json_schema?.schema ?? {}) },
    }),
  };
  return Object.keys(config).length > 0 ? config : undefined;
}

function effortOf(effort: string, known: readonly string[]): string {
  if (effort === 'minimal') return 'low';
  if (effort === 'low' || effort === 'medium' || known.includes(effort)) return effort;
  return 'high';
}

/** Returns the schema with `additionalProperties: false` for every object, which the API requires. */
function closed(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(closed);
  if (!isRecord(schema)) return schema;
  const copy = Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, closed(value)]));
  const isObject = schema.type === 'object' || isRecord(schema.properties);
  return isObject && !('additionalProperties' in schema && schema.additionalProperties === false)
    ? { ...copy, additionalProperties: false }
    : copy;
}

function toolOptions({ tools, toolChoice, options = {} }: ChatRequest): object {
  if (tools === undefined) return {};
  const isSingle = options.parallel_tool_calls === false && toolChoice !== 'none';
  const choice = toolChoice === undefined ? (isSingle ? { type: 'auto' } : undefined) : choiceOf(toolChoice);
  return {
    tools: tools.map(({ parameters, strict: _, ...tool }) => ({
      ...tool,
      input_schema: { type: 'object', ...(parameters?.type === undefined && { properties: {} }), ...parameters },
    })),
    ...(choice && { tool_choice: { ...choice, ...(isSingle && { disable_parallel_tool_use: true }) } }),
  };
}

function choiceOf(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { type: 'tool', name: choice.name };
  return { type: choice === 'required' ? 'any' : choice };
}
