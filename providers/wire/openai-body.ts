import type { ChatMessage, ChatRequest, ToolChoice, UserContent } from '../types.ts';
import { OPENAI_TOOL_IDS, type ToolIdRule, withToolIds } from './tool-ids.ts';
import { unsupportedOption } from './unsupported.ts';

/** The differences between Chat Completions APIs. Most providers have such an API. */
export interface OpenAIChatDialect {
  /** Name of the field for the maximum number of tokens. */
  readonly maxTokensField: 'max_tokens' | 'max_completion_tokens';
  /**
   * True to request a usage chunk. A few upstreams reject the field and send usage without a request for it.
   */
  readonly streamOptions: boolean;
  /** Ids of tool calls that the provider accepts; those of OpenAI if absent. */
  readonly toolIds?: ToolIdRule;
  /** Files that the provider accepts: as `data:` URLs, or also by `https:` URL; none if absent. */
  readonly files?: 'data' | 'any';
  /** False if the provider has JSON answers, but none by a schema. */
  readonly jsonSchema?: false;
  /** True if the provider knows Anthropic's `cache_control` in messages. */
  readonly cacheControl?: true;
  /** Names of options that differ from those of OpenAI. */
  readonly renamed?: Readonly<Record<string, string>>;
}

/** Returns the name of something in the request that this provider cannot express; undefined if it can be sent. */
export function unsupportedByChat(request: ChatRequest, { files, jsonSchema }: OpenAIChatDialect): string | undefined {
  const format = request.options?.response_format as { type?: unknown } | undefined;
  if (jsonSchema === false && format?.type === 'json_schema') return 'response_format';
  const hasFile = request.messages.some(
    ({ role, content }) =>
      role === 'user' &&
      typeof content !== 'string' &&
      content.some(({ type, ...block }) => type === 'file' && !acceptsFile(files, (block as { url: string }).url)),
  );
  return hasFile ? 'messages' : unsupportedOption(request, 'chat');
}

function acceptsFile(files: OpenAIChatDialect['files'], url: string): boolean {
  return files === 'any' || (files === 'data' && url.startsWith('data:'));
}

/**
 * Returns the body of a Chat Completions request. Fields of the request override the same fields of its
 * `options`.
 */
export function openAIChatBody(request: ChatRequest, dialect: OpenAIChatDialect): Record<string, unknown> {
  return {
    ...renameOptions(request.options, dialect),
    model: request.model,
    messages: withToolIds(request.messages, dialect.toolIds ?? OPENAI_TOOL_IDS).map((message) =>
      openAIMessage(message, dialect),
    ),
    stream: true,
    ...(dialect.streamOptions && { stream_options: { include_usage: true } }),
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { top_p: request.topP }),
    ...(request.maxTokens !== undefined && { [dialect.maxTokensField]: request.maxTokens }),
    ...(request.stop !== undefined && { stop: request.stop }),
    ...(request.tools !== undefined && { tools: openAITools(request.tools) }),
    ...(request.toolChoice !== undefined && { tool_choice: openAIToolChoice(request.toolChoice) }),
  };
}

function renameOptions(options: ChatRequest['options'] = {}, { renamed = {} }: OpenAIChatDialect) {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [renamed[name] ?? name, value]));
}

/** Returns the tools in OpenAI's format, which Ollama uses, too. */
export function openAITools(tools: NonNullable<ChatRequest['tools']>): object[] {
  return tools.map((tool) => ({ type: 'function', function: tool }));
}

function openAIToolChoice(choice: ToolChoice): unknown {
  return typeof choice === 'string' ? choice : { type: 'function', function: choice };
}

function openAIMessage(message: ChatMessage, dialect: OpenAIChatDialect): object {
  if (message.role === 'tool') {
    return { role: 'tool', tool_call_id: message.toolCallId, content: message.content };
  }
  if (message.role === 'assistant' && message.toolCalls !== undefined) {
    // `null`, because several servers reject an empty text with tool calls.
    const { content, reasoning, state } = message;
    const toolCalls = message.toolCalls.map(({ id, ...call }, i) => {
      const extraContent = state?.extraContent?.[i];
      return { id, type: 'function', function: call, ...(extraContent && { extra_content: extraContent }) };
    });
    return {
      role: 'assistant',
      content: content || null,
      ...(reasoning && { reasoning_content: reasoning }),
      ...(state?.details && { reasoning_details: state.details }),
      tool_calls: toolCalls,
    };
  }
  if (message.role === 'user' && typeof message.content !== 'string') {
    return { role: 'user', content: openAIContent(message.content, dialect) };
  }
  if (message.role === 'system' && message.cacheControl && dialect.cacheControl) {
    const { content: text, cacheControl } = message;
    return { role: 'system', content: [{ type: 'text', text, cache_control: cacheControl }] };
  }
  return { role: message.role, content: message.content };
}

/** Returns text alone as one string: DeepSeek and others refuse lists (BerriAI/litellm#6642). */
function openAIContent(content: readonly UserContent[], { cacheControl: hasCacheControl }: OpenAIChatDialect): unknown {
  const texts = content.flatMap((block) => (block.type === 'text' ? [block] : []));
  const isMarked = hasCacheControl && texts.some(({ cacheControl }) => cacheControl !== undefined);
  if (texts.length === content.length && !isMarked) return texts.map(({ text }) => text).join('\n');
  return content.map((block) => {
    if (block.type === 'text') {
      const { text, cacheControl } = block;
      return { type: 'text', text, ...(hasCacheControl && cacheControl && { cache_control: cacheControl }) };
    }
    if (block.type === 'file') {
      return { type: 'file', file: { filename: block.filename ?? 'document.pdf', file_data: block.url } };
    }
    const { type: _, ...image } = block;
    return { type: 'image_url', image_url: image };
  });
}
