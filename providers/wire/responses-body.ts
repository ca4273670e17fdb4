import type { ChatMessage, ChatRequest, ReasoningDetail, ToolChoice, UserContent } from '../types.ts';
import { reasoningOf } from './reasoning.ts';
import { OPENAI_TOOL_IDS, withToolIds } from './tool-ids.ts';

/** Format of the reasoning in a provider's state. */
export const RESPONSES_FORMAT = 'openai-responses-v1';

/** Least value of `max_output_tokens` that OpenAI accepts. */
const MIN_OUTPUT_TOKENS = 16;

/** Options that have the same name and form in this API. */
const SAME_OPTIONS = [
  'metadata',
  'parallel_tool_calls',
  'prompt_cache_key',
  'prompt_cache_retention',
  'safety_identifier',
  'service_tier',
  'user',
];

/**
 * Returns the body of a request to OpenAI's Responses API. Nothing is stored at the provider, so that reasoning comes
 * back encrypted and is sent again with the tool calls that follow it.
 */
export function responsesBody(request: ChatRequest): Record<string, unknown> {
  const { options = {} } = request;
  const reasoning = reasoningOf(options);
  const isReasoning = isReasoningModel(request.model);
  // Reasoning models refuse them, unless they do not reason.
  const hasSampling = !isReasoning || reasoning?.isEnabled === false;
  const text = textOptions(options);
  return {
    ...pick(options, SAME_OPTIONS),
    ...pick(options, request.forward ?? []),
    model: request.model,
    input: withToolIds(request.messages, OPENAI_TOOL_IDS).flatMap(inputItems),
    stream: true,
    store: false,
    ...(hasSampling && request.temperature !== undefined && { temperature: request.temperature }),
    ...(hasSampling && request.topP !== undefined && { top_p: request.topP }),
    ...(request.maxTokens !== undefined && { max_output_tokens: Math.max(request.maxTokens, MIN_OUTPUT_TOKENS) }),
    ...(reasoning && { reasoning: reasoningOptions(reasoning) }),
    ...((isReasoning || reasoning?.isEnabled) && { include: ['reasoning.encrypted_content'] }),
    ...(text && { text }),
    ...(request.tools !== undefined && {
      // The API takes schemas as strict unless it is told otherwise.
      tools: request.tools.map(({ strict = false, ...tool }) => ({ type: 'function', ...tool, strict })),
    }),
    ...(request.toolChoice !== undefined && { tool_choice: toolChoice(request.toolChoice) }),
  };
}

/** Returns true for OpenAI's models that reason: o1 and later, and GPT-5 and later but the chat models. */
export function isReasoningModel(model: string): boolean {
  const name = model.slice(model.lastIndexOf('/') + 1);
  if (/^o\d/.test(name)) return true;
  const version = Number(/^gpt-(\d+)/.exec(name)?.[1] ?? 0);
  return version >= 5 && !/-chat\b/.test(name);
}

function reasoningOptions({ isEnabled, effort }: NonNullable<ReturnType<typeof reasoningOf>>): object {
  if (!isEnabled) return { effort: 'none' };
  return { ...(effort !== undefined && { effort }), summary: 'auto' };
}

function textOptions(options: Readonly<Record<string, unknown>>): object | undefined {
  const format = options.response_format as { type?: string; json_schema?: object } | undefined;
  const isSchema = format?.type === 'json_schema';
  const text = {
    ...(format &&
      format.type !== 'text' && {
        format: isSchema ? { type: 'json_schema', ...format.json_schema } : { type: format.type },
      }),
    ...(options.verbosity !== undefined && { verbosity: options.verbosity }),
  };
  return Object.keys(text).length > 0 ? text : undefined;
}

function toolChoice(choice: ToolChoice): unknown {
  return typeof choice === 'string' ? choice : { type: 'function', name: choice.name };
}

/** Returns the items of a message. System texts stay in their place: `instructions` would move them to the front. */
function inputItems(message: ChatMessage): object[] {
  if (message.role === 'tool') {
    return [{ type: 'function_call_output', call_id: message.toolCallId, output: message.content }];
  }
  if (message.role === 'user') {
    const { content } = message;
    return [{ role: 'user', content: typeof content === 'string' ? content : content.map(inputPart) }];
  }
  if (message.role === 'system') return [{ role: 'system', content: message.content }];
  const text = message.content === '' ? [] : [{ role: 'assistant', content: message.content }];
  const details = (message.state?.details ?? []).filter(({ format }) => format === RESPONSES_FORMAT);
  const calls = (message.toolCalls ?? []).flatMap(({ id, name, arguments: args }, call) => [
    ...details.filter(({ before = 0 }) => before === call).map(reasoningItem),
    { type: 'function_call', call_id: id, name, arguments: args === '' ? '{}' : args },
  ]);
  return [...text, ...calls];
}

function reasoningItem({ id, data, summary }: ReasoningDetail): object {
  return { type: 'reasoning', id, summary: Array.isArray(summary) ? summary : [], encrypted_content: data };
}

function inputPart(part: UserContent): object {
  if (part.type === 'text') return { type: 'input_text', text: part.text };
  if (part.type === 'image') {
    return { type: 'input_image', image_url: part.url, detail: part.detail ?? 'auto' };
  }
  if (!part.url.startsWith('data:')) return { type: 'input_file', file_url: part.url };
  return { type: 'input_file', filename: part.filename ?? 'document.pdf', file_data: part.url };
}

function pick(options: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.filter((name) => options[name] !== undefined).map((name) => [name, options[name]]));
}
