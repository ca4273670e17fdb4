import type { ChatMessage, ChatRequest, ReasoningDetail, UserContent } from '../types.ts';
import { anthropicOptions } from './anthropic-options.ts';
import { type ClaudeModel, claudeModel } from './claude-models.ts';
import { parseDataUrl } from './data-url.ts';
import { parseObject } from './json.ts';
import { withoutBlankText } from './messages.ts';
import { ANTHROPIC_TOOL_IDS, withToolIds } from './tool-ids.ts';
import { unsupportedOption } from './unsupported.ts';

/** Format of thinking blocks in a provider's state. */
export const ANTHROPIC_FORMAT = 'anthropic-claude-v1';

interface Turn {
  readonly role: 'user' | 'assistant';
  readonly content: object[];
}

type CacheControl = Readonly<Record<string, unknown>> | undefined;

/** Returns the name of something in the request that the model cannot express; undefined if it can be sent. */
export function unsupportedByAnthropic(request: ChatRequest): string | undefined {
  const format = request.options?.response_format as { type?: unknown } | undefined;
  if (format?.type === 'json_schema' && !claudeModel(request.model).hasJsonSchema) return 'response_format';
  return unsupportedOption(request, 'anthropic');
}

/**
 * Returns the body of a Messages request.
 * @param sampling how many sampling options the model accepts; by its name if absent
 * @throws ProviderError for an invalid `data:` URL
 */
export function anthropicBody(request: ChatRequest, sampling?: ClaudeModel['sampling']): Record<string, unknown> {
  const model = claudeModel(request.model);
  const messages = withToolIds(request.messages, ANTHROPIC_TOOL_IDS);
  const system = systemOf(messages);
  const options = request.options ?? {};
  return {
    ...Object.fromEntries((request.forward ?? []).flatMap((name) => (name in options ? [[name, options[name]]] : []))),
    model: request.model,
    messages: toTurns(messages),
    stream: true,
    ...(system !== undefined && { system }),
    ...anthropicOptions(request, model, sampling ?? model.sampling, hasThinking(messages)),
  };
}

/**
 * Returns true if the last step with tool calls has its thinking. The API refuses thinking in the middle of a tool run
 * whose calls came from another provider, or from a client that has lost them.
 */
function hasThinking(messages: readonly ChatMessage[]): boolean {
  const last = messages.findLast(({ role }) => role !== 'tool');
  if (messages.at(-1)?.role !== 'tool' || last?.role !== 'assistant') return true;
  return last.state?.details?.some(({ format }) => format === ANTHROPIC_FORMAT) === true;
}

/** Returns the system texts as one text, or as blocks if one of them ends a cached prompt. */
function systemOf(messages: readonly ChatMessage[]): string | object[] | undefined {
  const texts = messages.flatMap((message) => (message.role === 'system' ? [message] : []));
  if (texts.length === 0) return undefined;
  if (texts.every(({ cacheControl }) => cacheControl === undefined)) {
    return texts.map(({ content }) => content).join('\n\n');
  }
  return texts.map(({ content, cacheControl }) => textBlock(content, cacheControl));
}

function textBlock(text: string, cacheControl: CacheControl): object {
  return { type: 'text', text, ...(cacheControl && { cache_control: cacheControl }) };
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
  if (typeof message.content !== 'string') return withoutBlankText(message.content).map(userBlock);
  const text = message.content.trim() === '' ? [] : [{ type: 'text', text: message.content }];
  if (message.role === 'user') return text;
  const details = (message.state?.details ?? []).filter(({ format }) => format === ANTHROPIC_FORMAT);
  const before = (call: number) => details.filter((detail) => (detail.before ?? 0) === call).map(thinkingBlock);
  const calls = (message.toolCalls ?? []).flatMap(({ id, name, arguments: args }, call) => [
    ...(call === 0 ? [] : before(call)),
    { type: 'tool_use', id, name, input: parseObject(args) },
  ]);
  // Thinking is the first block of a turn.
  return [...before(0), ...text, ...calls];
}

function thinkingBlock({ type, text, signature, data }: ReasoningDetail): object {
  if (type === 'reasoning.encrypted') return { type: 'redacted_thinking', data };
  return { type: 'thinking', thinking: text, signature };
}

function userBlock(block: UserContent): object {
  if (block.type === 'text') return textBlock(block.text, block.cacheControl);
  const inline = parseDataUrl(block.url);
  const source = inline
    ? { type: 'base64', media_type: inline.mimeType, data: inline.data }
    : { type: 'url', url: block.url };
  if (block.type === 'image') return { type: 'image', source };
  return { type: 'document', source, ...(block.filename !== undefined && { title: block.filename }) };
}
