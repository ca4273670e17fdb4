import type { ChatMessage, ChatRequest, ToolChoice, UserContent } from '../types.ts';
import { defaultFilename } from './data-url.ts';
import { ANY_TOOL_ID, type ToolIdRule, withToolIds } from './tool-ids.ts';

/** The differences between Chat Completions APIs. Most providers have such an API. */
export interface OpenAIChatDialect {
  /** Name of the field for the maximum number of tokens. */
  readonly maxTokensField: 'max_tokens' | 'max_completion_tokens';
  /**
   * True to request a usage chunk. A few upstreams reject the field and send usage without a request for it.
   */
  readonly streamOptions: boolean;
  /** Files that messages may contain: by base64 `data:` URL, or by any URL. None if absent. */
  readonly files?: 'data' | 'any';
  /** False if the API cannot follow a JSON schema. */
  readonly jsonSchema?: boolean;
  /** True if `cache_control` is sent with the texts that have it. */
  readonly cacheControl?: boolean;
  /** Ids of tool calls that the API accepts; all if absent. */
  readonly toolIds?: ToolIdRule;
  /** False if the API refuses the names of participants. */
  readonly names?: boolean;
  /** Name of the field for the seed; `seed` if absent. */
  readonly seedField?: string;
}

/**
 * Returns the body of a Chat Completions request. Fields of the request override the same fields of its
 * `options`.
 */
export function openAIChatBody(request: ChatRequest, dialect: OpenAIChatDialect): Record<string, unknown> {
  const { seedField = 'seed', toolIds = ANY_TOOL_ID } = dialect;
  const { seed, ...options } = request.options ?? {};
  return {
    ...options,
    ...(seed !== undefined && { [seedField]: seed }),
    model: request.model,
    messages: withToolIds(request.messages, toolIds).map((message) => openAIMessage(message, dialect)),
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
  const name = message.name !== undefined && dialect.names !== false ? { name: message.name } : {};
  if (message.role === 'assistant' && message.toolCalls !== undefined) {
    const { content, reasoning, state } = message;
    const toolCalls = message.toolCalls.map(({ id, ...call }, index) => {
      const extra = state?.extraContent?.[index] ?? {};
      // An empty one only marks the id.
      const hasExtra = Object.keys(extra).length > 0;
      return { id, type: 'function', function: call, ...(hasExtra && { extra_content: extra }) };
    });
    // `null`, because several servers reject an empty text with tool calls.
    return {
      role: 'assistant',
      ...name,
      content: content || null,
      ...(reasoning && { reasoning_content: reasoning }),
      ...(state?.details && { reasoning_details: state.details.map(withoutPlace) }),
      tool_calls: toolCalls,
    };
  }
  if (message.role === 'system' && dialect.cacheControl && message.cacheControl !== undefined) {
    const { content: text, cacheControl } = message;
    return { role: 'system', ...name, content: [{ type: 'text', text, cache_control: cacheControl }] };
  }
  if (message.role === 'user' && typeof message.content !== 'string') {
    return { role: 'user', ...name, content: openAIContent(message.content, dialect) };
  }
  return { role: message.role, ...name, content: message.content };
}

/** Removes our own field, so that the block is the one that came. */
function withoutPlace({ before: _, ...detail }: { readonly before?: number }): object {
  return detail;
}

/** Returns a text if there is nothing else: some servers know no lists (DeepSeek). */
function openAIContent(content: readonly UserContent[], { cacheControl: sendsCacheControl }: OpenAIChatDialect) {
  const texts = content.flatMap((block) => (block.type === 'text' ? [block] : []));
  const isCached = sendsCacheControl && texts.some((block) => block.cacheControl !== undefined);
  if (texts.length === content.length && !isCached) return texts.map(({ text }) => text).join('\n');
  return content.map((block) => {
    if (block.type === 'text') {
      const { text, cacheControl } = block;
      return { type: 'text', text, ...(sendsCacheControl && cacheControl && { cache_control: cacheControl }) };
    }
    if (block.type === 'file') {
      const { url, mimeType, filename = defaultFilename(mimeType) } = block;
      return { type: 'file', file: { filename, file_data: url } };
    }
    const { type: _, ...image } = block;
    return { type: 'image_url', image_url: image };
  });
}

/**
 * Returns the name of what this API cannot express, beyond the table of options: files and JSON schemas, which differ
 * by provider.
 */
export function unsupportedInChat(
  { messages, options }: ChatRequest,
  { files, jsonSchema }: Pick<OpenAIChatDialect, 'files' | 'jsonSchema'>,
): string | undefined {
  const format = options?.response_format as { type?: unknown } | null | undefined;
  if (jsonSchema === false && format?.type === 'json_schema') return 'response_format';
  if (files === 'any') return undefined;
  const hasUnfitFile = messages.some(
    ({ role, content }) =>
      role === 'user' &&
      typeof content !== 'string' &&
      content.some(({ type, ...block }) => {
        return type === 'file' && !(files === 'data' && (block as { url: string }).url.startsWith('data:'));
      }),
  );
  return hasUnfitFile ? 'messages' : undefined;
}
