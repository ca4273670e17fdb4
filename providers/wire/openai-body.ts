import type { ChatMessage, ChatRequest, ToolChoice } from '../types.ts';

/** The differences between Chat Completions APIs. Most providers have such an API. */
export interface OpenAIChatDialect {
  /** Name of the field for the maximum number of tokens. */
  readonly maxTokensField: 'max_tokens' | 'max_completion_tokens';
  /**
   * True to request a usage chunk. A few upstreams reject the field and send usage without a request for it.
   */
  readonly streamOptions: boolean;
}

/**
 * Returns the body of a Chat Completions request. Fields of the request override the same fields of its
 * `options`.
 */
export function openAIChatBody(request: ChatRequest, dialect: OpenAIChatDialect): Record<string, unknown> {
  return {
    ...request.options,
    model: request.model,
    messages: request.messages.map(openAIMessage),
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

function openAIMessage(message: ChatMessage): object {
  if (message.role === 'tool') {
    return { role: 'tool', tool_call_id: message.toolCallId, content: message.content };
  }
  if (message.role === 'assistant' && message.toolCalls !== undefined) {
    const toolCalls = message.toolCalls.map(({ id, ...call }) => ({ id, type: 'function', function: call }));
    // `null`, because several servers reject an empty text with tool calls.
    const { content, reasoning } = message;
    return {
      role: 'assistant',
      content: content || null,
      ...(reasoning && { reasoning_content: reasoning }),
      tool_calls: toolCalls,
    };
  }
  if (message.role === 'user' && typeof message.content !== 'string') {
    const content = message.content.map((block) => {
      if (block.type === 'text') return block;
      const { type: _, ...image } = block;
      return { type: 'image_url', image_url: image };
    });
    return { role: 'user', content };
  }
  return { role: message.role, content: message.content };
}
