import type { ChatMessage, ChatRequest, ToolChoice } from '../types.ts';
import { inlineData } from './data-url.ts';
import { parseObject } from './json.ts';
import { withoutBlankText } from './messages.ts';

/** The API wants a limit; this is one that every model of theirs takes. */
const MAX_TOKENS = 4_096;

interface Turn {
  readonly role: 'user' | 'assistant';
  readonly content: object[];
}

export function anthropicBody(request: ChatRequest): Record<string, unknown> {
  const system = request.messages.flatMap((message) => (message.role === 'system' ? [message.content] : []));
  return {
    model: request.model,
    max_tokens: request.maxTokens ?? MAX_TOKENS,
    messages: turns(request.messages),
    stream: true,
    ...(system.length > 0 && { system: system.join('\n\n') }),
    // From 0 to 1 here, from 0 to 2 elsewhere.
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

/** User and assistant in turn: neighbours of one role become one message. */
function turns(messages: readonly ChatMessage[]): Turn[] {
  const turns: Turn[] = [];
  for (const message of messages) {
    const content = blocks(message);
    if (content.length === 0) continue;
    const role = message.role === 'assistant' ? 'assistant' : 'user';
    const last = turns.at(-1);
    if (last?.role === role) last.content.push(...content);
    else turns.push({ role, content });
  }
  return turns;
}

/** Empty texts are refused, so they are left out. */
function blocks(message: ChatMessage): object[] {
  if (message.role === 'system') return [];
  if (message.role === 'tool') {
    return [{ type: 'tool_result', tool_use_id: message.toolCallId, content: message.content }];
  }
  if (typeof message.content !== 'string') {
    return withoutBlankText(message.content).map((block) => (block.type === 'image' ? image(block.url) : block));
  }
  const text = message.content.trim() === '' ? [] : [{ type: 'text', text: message.content }];
  const calls = message.role === 'assistant' ? (message.toolCalls ?? []) : [];
  return [
    ...text,
    ...calls.map(({ id, name, arguments: args }) => ({ type: 'tool_use', id, name, input: parseObject(args) })),
  ];
}

function image(url: string): object {
  const inline = inlineData(url);
  return {
    type: 'image',
    source: inline ? { type: 'base64', media_type: inline.mimeType, data: inline.data } : { type: 'url', url },
  };
}

function toolChoice(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { type: 'tool', name: choice.name };
  return { type: choice === 'required' ? 'any' : choice };
}
