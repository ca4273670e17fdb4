import type { ChatMessage, ChatRequest } from '../types.ts';
import { imageUrlError, parseDataUrl } from './data-url.ts';
import { parseObject } from './json.ts';
import { sortToolResults } from './messages.ts';
import { openAITools } from './openai-body.ts';
import { forwardedOptions, renamedOptions } from './passed-options.ts';
import { reasoningOf } from './reasoning.ts';
import { jsonFormatOf } from './response-format.ts';
import { isKnownOption } from './unsupported.ts';

/** Names in Ollama's `options`, by their names in Chat Completions. */
const OPTION_NAMES = {
  seed: 'seed',
  top_k: 'top_k',
  min_p: 'min_p',
  presence_penalty: 'presence_penalty',
  frequency_penalty: 'frequency_penalty',
  repetition_penalty: 'repeat_penalty',
};

/** Returns the body of an `/api/chat` request. @throws ProviderError for an image that is not part of the request */
export function ollamaBody(request: ChatRequest): Record<string, unknown> {
  const options = {
    ...unknownOptions(request),
    ...renamedOptions(request, OPTION_NAMES),
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { top_p: request.topP }),
    ...(request.maxTokens !== undefined && { num_predict: request.maxTokens }),
    ...(request.stop !== undefined && { stop: request.stop }),
  };
  // Ollama has no tool choice. `none` is expressed by leaving the tools out.
  const tools = request.toolChoice === 'none' ? undefined : request.tools;
  const format = jsonFormatOf(request.options);
  const think = thinkOf(request);
  return {
    model: request.model,
    messages: sortToolResults(request.messages).map(ollamaMessage),
    stream: true,
    ...(Object.keys(options).length > 0 && { options }),
    ...(format !== undefined && { format: format.schema ?? 'json' }),
    ...(think !== undefined && { think }),
    ...(tools !== undefined && { tools: openAITools(tools) }),
    ...forwardedOptions(request),
  };
}

/** Returns the options of Ollama's models, such as `num_ctx`, which have no name in Chat Completions. */
function unknownOptions({ options = {}, forward = [] }: ChatRequest): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(options).filter(([name, value]) => value != null && !isKnownOption(name) && !forward.includes(name)),
  );
}

/**
 * Returns `think`. Models of the gpt-oss family have levels and cannot answer without thinking; the others are turned on
 * or off. An unknown level would silently be the default of the model: https://docs.ollama.com/capabilities/thinking
 */
function thinkOf({ model, options }: ChatRequest): boolean | string | undefined {
  const reasoning = reasoningOf(options);
  if (reasoning === undefined) return undefined;
  if (!model.includes('gpt-oss')) return reasoning.isEnabled;
  if (!reasoning.isEnabled) return 'low';
  const { effort = 'medium' } = reasoning;
  if (effort === 'minimal') return 'low';
  if (effort === 'xhigh' || effort === 'max') return 'high';
  return ['low', 'high'].includes(effort) ? effort : 'medium';
}

function ollamaMessage(message: ChatMessage): object {
  if (message.role === 'tool') return { role: 'tool', tool_name: message.name, content: message.content };
  if (message.role === 'assistant' && message.toolCalls !== undefined) {
    const calls = message.toolCalls.map(({ name, arguments: args }) => ({
      function: { name, arguments: parseObject(args) },
    }));
    const { content, reasoning: thinking } = message;
    return { role: 'assistant', content, ...(thinking && { thinking }), tool_calls: calls };
  }
  if (typeof message.content === 'string') return { role: message.role, content: message.content };
  const text = message.content.flatMap((block) => (block.type === 'text' ? [block.text] : []));
  const images = message.content.flatMap((block) => (block.type === 'image' ? [imageData(block.url)] : []));
  return { role: 'user', content: text.join('\n'), ...(images.length > 0 && { images }) };
}

/**
 * Returns the base64 data of an image.
 * @throws ProviderError for other URLs: Ollama accepts only inline images
 */
function imageData(url: string): string {
  const content = parseDataUrl(url);
  if (content === undefined) throw imageUrlError();
  return content.data;
}
