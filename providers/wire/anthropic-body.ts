import type { ChatRequest, Tool, ToolChoice } from '../types.ts';
import { lacksThinking, systemOf, toTurns } from './anthropic-messages.ts';
import { type Thinking, thinkingOf } from './anthropic-thinking.ts';
import { type ClaudeModel, claudeModel, type Sampling } from './claude-models.ts';
import { closedSchema } from './closed-schema.ts';
import { forwardedOptions } from './passed-options.ts';
import { jsonFormatOf } from './response-format.ts';
import { ANTHROPIC_TOOL_IDS, withToolIds } from './tool-ids.ts';

/** Smallest `top_p` that the API accepts together with thinking. */
const MIN_TOP_P_WITH_THINKING = 0.95;

/**
 * Returns the body of a Messages request. Rules for single models are in `claude-models.ts`.
 * @param sampling overrides the rule of the model
 * @throws ProviderError for an invalid `data:` URL
 */
export function anthropicBody(request: ChatRequest, sampling?: Sampling): Record<string, unknown> {
  const model = claudeModel(request.model);
  const maxTokens = request.maxTokens ?? model.maxOutputTokens;
  const thinking = thinkingOf(request, model, maxTokens, lacksThinking(request.messages, request.model));
  // Without thinking, models with budgets have no use for earlier thinking blocks.
  const takesThinking = model.thinking === 'adaptive' || thinking.isOn;
  const system = systemOf(request.messages);
  const messages = withToolIds(request.messages, ANTHROPIC_TOOL_IDS);
  const cacheControl = request.options?.cache_control;
  return {
    model: request.model,
    max_tokens: maxTokens,
    messages: toTurns(messages, takesThinking ? request.model : undefined),
    stream: true,
    ...(system !== undefined && { system }),
    ...samplingFields(request, sampling ?? model.sampling, thinking.isOn),
    ...(request.stop !== undefined && { stop_sequences: request.stop }),
    ...toolFields(request),
    ...thinkingFields(request, thinking, model),
    ...(cacheControl != null && { cache_control: cacheControl }),
    ...forwardedOptions(request),
  };
}

/** Returns the sampling options that the model accepts. With thinking, the API refuses `temperature` and `top_k`. */
function samplingFields({ temperature, topP, options }: ChatRequest, sampling: Sampling, isThinking: boolean): object {
  if (sampling === 'none') return {};
  const topK = options?.top_k;
  const hasTopP = topP !== undefined && (isThinking ? topP >= MIN_TOP_P_WITH_THINKING : true);
  if (isThinking) return hasTopP ? { top_p: topP } : {};
  const isTopPExcluded = sampling === 'one' && temperature !== undefined;
  return {
    // Anthropic accepts 0 to 1, other APIs 0 to 2.
    ...(temperature !== undefined && { temperature: Math.min(temperature, 1) }),
    ...(hasTopP && !isTopPExcluded && { top_p: topP }),
    ...(topK != null && { top_k: topK }),
  };
}

function thinkingFields({ options }: ChatRequest, { config, effort }: Thinking, model: ClaudeModel): object {
  const schema = model.hasStructuredOutput ? jsonFormatOf(options)?.schema : undefined;
  const outputConfig = {
    ...(effort !== undefined && { effort }),
    ...(schema !== undefined && { format: { type: 'json_schema', schema: closedSchema(schema) } }),
  };
  return {
    ...(config !== undefined && { thinking: config }),
    ...(Object.keys(outputConfig).length > 0 && { output_config: outputConfig }),
  };
}

function toolFields({ tools, toolChoice, options }: ChatRequest): object {
  if (tools === undefined) return {};
  const isSequential = options?.parallel_tool_calls === false && toolChoice !== 'none';
  const choice = toolChoice ?? (isSequential ? 'auto' : undefined);
  return {
    tools: tools.map(anthropicTool),
    ...(choice !== undefined && {
      tool_choice: { ...anthropicToolChoice(choice), ...(isSequential && { disable_parallel_tool_use: true }) },
    }),
  };
}

/** Returns a tool. The API requires `type` in the schema of the arguments; clients send `{}` for no arguments. */
function anthropicTool({ name, description, parameters = {} }: Tool): object {
  const isEmpty = Object.keys(parameters).length === 0;
  return {
    name,
    ...(description !== undefined && { description }),
    input_schema: isEmpty ? { type: 'object', properties: {} } : parameters,
  };
}

function anthropicToolChoice(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { type: 'tool', name: choice.name };
  return { type: choice === 'required' ? 'any' : choice };
}
