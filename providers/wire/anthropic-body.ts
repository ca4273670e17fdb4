import type { ChatMessage, ChatRequest, ToolChoice } from '../types.ts';
import { parseDataUrl } from './data-url.ts';
import { parseObject } from './json.ts';
import { withoutBlankText } from './messages.ts';

/** Limit of requests without one. The API requires a limit, and every model accepts this one. */
const DEFAULT_MAX_TOKENS = 4_096;

interface Turn {
  readonly role: 'user' | 'assistant';
  readonly content: object[];
}

/** Returns the body of a Messages request. @throws ProviderError for an invalid `data:` URL */
export function anthropicBody(request: ChatRequest): Record<string, unknown> {
  const system = request.messages.flatMap((message) => (message.role === 'system' ? [message.content] : []));
  return {
    model: request.model,
    max_tokens: request.maxTokens ?? DEFAULT_MAX_TOKENS,
    messages: toTurns(request.messages),
    stream: true,
    ...(system.length > 0 && { system: system.join('\n\n') }),
    // Anthropic accepts 0 to 1, other APIs 0 to 2.
    ...(request.temperature !== undefined && { temperature: Math.min(request.temperature, 1) }),
    ...(request.topP !== undefined && { top_p: request.topP }),
    ...(request.stop !== undefined && { stop_sequences: request.stop }),
    ...(request.tools !== undefined && {
      tools: request.tools.map(({ parameters = { type: 'object' }, strict: _, ...tool }) => ({
        ...tool,
        input_schema: parameters,
      })),
    }),
    ...(request.toolChoice !== undefined && { tool_choice: toolChoice(request.toolChoice) }),
  };
}

/** Merges adjacent messages of one role, because user and assistant must alternate. */
function toTurns(messages: readonly ChatMessage[]): Turn[] {
  const turns: Turn[] = [];
  for (const message of messages) {
    const content = contentBlocks(message);
    if (content.length === 0) continue;
    const role = message.role === 'assistant' ? 'assistant' : 'user';
    const last = turns.at(-1);
    if (last?.role === role) last.content.push(...content);
    else turns.push({ role, content });
  }
  return turns;
}

/** Returns the content blocks of a message without empty texts, which the API rejects. */
function contentBlocks(message: ChatMessage): object[] {
  if (message.role === 'system') return [];
  if (message.role === 'tool') {
    return [{ type: 'tool_result', tool_use_id: message.toolCallId, content: message.content }];
  }
  if (typeof message.content !== 'string') {
    return withoutBlankText(message.content).map((block) => (block.type === 'image' ? imageBlock(block.url) : block));
  }
  const text = message.content.trim() === '' ? [] : [{ type: 'text', text: message.content }];
  const toolCalls = message.role === 'assistant' ? (message.toolCalls ?? []) : [];
  return [
    ...text,
    ...toolCalls.map(({ id, name, arguments: args }) => ({ type: 'tool_use', id, name, input: parseObject(args) })),
  ];
}

function imageBlock(url: string): object {
  const inline = parseDataUrl(url);
  return {
    type: 'image',
    source: inline ? { type: 'base64', media_type: inline.mimeType, data: inline.data } : { type: 'url', url },
  };
}

function toolChoice(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { type: 'tool', name: choice.name };
  return { type: choice === 'required' ? 'any' : choice };
}
