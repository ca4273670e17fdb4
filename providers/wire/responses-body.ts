import type { ChatMessage, ChatRequest, ReasoningDetail, ToolChoice, UserContent } from '../types.ts';
import { defaultFilename } from './data-url.ts';
import { type Reasoning, reasoningOf } from './reasoning.ts';
import { RESPONSES_TOOL_IDS, withToolIds } from './tool-ids.ts';

/** The differences between Responses APIs. */
export interface ResponsesDialect {
  /** True to request a summary of the reasoning: OpenAI and Azure send none without a request for it. */
  readonly reasoningSummaries: boolean;
}

/** Format of the reasoning that OpenAI encrypts, by OpenRouter's name. */
export const RESPONSES_STATE_FORMAT = 'openai-responses-v1';

/** Minimum of `max_output_tokens`. */
const MIN_OUTPUT_TOKENS = 16;

/** Options that have the same name and values in both APIs. */
const COMMON_OPTIONS = [
  'user',
  'safety_identifier',
  'metadata',
  'service_tier',
  'prompt_cache_key',
  'prompt_cache_retention',
];

/**
 * Returns the body of a Responses request. The answer is not stored, so the encrypted reasoning is requested: it
 * comes back with the tool results of the next request.
 */
export function responsesBody(request: ChatRequest, dialect: ResponsesDialect): Record<string, unknown> {
  const { model, tools, toolChoice, maxTokens, options = {} } = request;
  const reasoning = reasoningOf(options);
  const hasSampling = !isReasoningModel(model) || reasoning?.isEnabled === false;
  const usesReasoning = reasoning?.isEnabled ?? isReasoningModel(model);
  const text = textOptions(options);
  return {
    ...pick(options, COMMON_OPTIONS),
    store: false,
    ...(usesReasoning && { include: ['reasoning.encrypted_content'] }),
    ...(reasoning && { reasoning: reasoningField(reasoning, options.reasoning, dialect) }),
    ...(hasSampling && request.temperature !== undefined && { temperature: request.temperature }),
    ...(hasSampling && request.topP !== undefined && { top_p: request.topP }),
    ...(maxTokens !== undefined && { max_output_tokens: Math.max(maxTokens, MIN_OUTPUT_TOKENS) }),
    ...(tools && { tools: tools.map(responsesTool) }),
    ...(toolChoice !== undefined && { tool_choice: responsesToolChoice(toolChoice) }),
    ...(tools && pick(options, ['parallel_tool_calls'])),
    ...(Object.keys(text).length > 0 && { text }),
    ...pick(options, request.forward ?? []),
    model,
    input: withToolIds(request.messages, RESPONSES_TOOL_IDS).flatMap(inputItems),
    stream: true,
  };
}

/**
 * Returns true for OpenAI's reasoning models, which reject `temperature` and `top_p`: the o series, and GPT-5 and
 * newer. Newer names count as reasoning models. Unknown names do not.
 */
export function isReasoningModel(model: string): boolean {
  return /(?:^|\/|^ft:)(?:o\d|gpt-(?:[5-9]|\d\d)(?!-chat))/i.test(model);
}

/** Returns the fields that are neither undefined nor null. */
function pick(options: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.flatMap((name) => (options[name] == null ? [] : [[name, options[name]]])));
}

/** Most tokens of reasoning for each effort. The API has no budget; a larger one is `high`. */
const EFFORT_BUDGETS = [
  ['low', 2_048],
  ['medium', 16_384],
] as const;

function reasoningField(
  { isEnabled, effort, budgetTokens }: Reasoning,
  requested: unknown,
  { reasoningSummaries }: ResponsesDialect,
): object {
  if (!isEnabled) return { effort: 'none' };
  const byBudget = budgetTokens === undefined ? 'medium' : EFFORT_BUDGETS.find(([, most]) => budgetTokens <= most)?.[0];
  const { summary = reasoningSummaries ? 'auto' : null } = (requested ?? {}) as { summary?: unknown };
  // Explicit, because some models do not reason by default.
  return { effort: effort ?? byBudget ?? 'high', ...(summary != null && { summary }) };
}

/** Returns `text`: the format of the answer without the level that Chat Completions has for a schema. */
function textOptions(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const format = options.response_format as { type?: unknown; json_schema?: object } | null | undefined;
  const { verbosity } = options;
  return {
    ...(format != null && { format: format.type === 'json_schema' ? flatSchema(format.json_schema) : format }),
    ...(verbosity != null && { verbosity }),
  };
}

function flatSchema(schema: object = {}): object {
  return { type: 'json_schema', ...schema };
}

/** Responses would add `strict: true`, which rejects schemas with optional fields. */
function responsesTool({ name, description, parameters, strict }: NonNullable<ChatRequest['tools']>[number]): object {
  return {
    type: 'function',
    name,
    ...(description !== undefined && { description }),
    parameters: parameters ?? { type: 'object', properties: {} },
    strict: strict ?? false,
  };
}

function responsesToolChoice(choice: ToolChoice): unknown {
  return typeof choice === 'string' ? choice : { type: 'function', name: choice.name };
}

/**
 * Returns the items of a message. System messages are items, not `instructions`, so that they keep their place. They
 * have the role `system`, which OpenAI treats as `developer` and which other servers know, too.
 */
function inputItems(message: ChatMessage): object[] {
  if (message.role === 'tool') {
    return [{ type: 'function_call_output', call_id: message.toolCallId, output: message.content }];
  }
  if (message.role === 'user' && typeof message.content !== 'string') {
    return [{ role: 'user', content: message.content.map(inputContent) }];
  }
  if (message.role !== 'assistant') return [{ role: message.role, content: message.content }];
  const { content, toolCalls = [], state } = message;
  const text = content === '' && toolCalls.length > 0 ? [] : [{ role: 'assistant', content }];
  const calls = toolCalls.flatMap(({ id, name, arguments: args }, index) => [
    ...reasoningItems(state?.details, index),
    { type: 'function_call', call_id: id, name, arguments: args || '{}' },
  ]);
  return [...text, ...calls];
}

/** Returns the encrypted reasoning before a tool call. OpenAI requires an item to follow each one. */
function reasoningItems(details: readonly ReasoningDetail[] = [], callIndex: number): object[] {
  return details
    .filter(({ type, format, before = 0 }) => {
      return type === 'reasoning.encrypted' && format === RESPONSES_STATE_FORMAT && before === callIndex;
    })
    .map(({ id, data }) => ({ type: 'reasoning', ...(id != null && { id }), summary: [], encrypted_content: data }));
}

function inputContent(block: UserContent): object {
  if (block.type === 'text') return { type: 'input_text', text: block.text };
  // vLLM requires `detail`; `auto` is the default of OpenAI.
  if (block.type === 'image') return { type: 'input_image', image_url: block.url, detail: block.detail ?? 'auto' };
  if (!block.url.startsWith('data:')) return { type: 'input_file', file_url: block.url };
  return { type: 'input_file', filename: block.filename ?? defaultFilename(block.mimeType), file_data: block.url };
}
