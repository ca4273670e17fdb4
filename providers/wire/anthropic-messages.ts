import type { ChatMessage, FileContent, ProviderState, ReasoningDetail, UserContent } from '../types.ts';
import { isSameClaudeModel } from './claude-models.ts';
import { parseDataUrl } from './data-url.ts';
import { parseObject } from './json.ts';
import { withoutBlankText } from './messages.ts';

/** `format` of the reasoning details that hold thinking blocks. OpenRouter uses the same name. */
export const THINKING_FORMAT = 'anthropic-claude-v1';

interface Turn {
  readonly role: 'user' | 'assistant';
  readonly content: object[];
}

/** Returns `system`: a text, or a list of blocks if one of them has a cache marker. */
export function systemOf(messages: readonly ChatMessage[]): string | object[] | undefined {
  const system = messages.filter((message) => message.role === 'system');
  if (system.length === 0) return undefined;
  if (system.every(({ cacheControl }) => cacheControl === undefined)) {
    return system.map(({ content }) => content).join('\n\n');
  }
  return system
    .filter(({ content }) => content.trim() !== '')
    .map(({ content, cacheControl }) => textBlock(content, cacheControl));
}

/**
 * Merges adjacent messages of one role, because user and assistant must alternate.
 * @param thinkingModel model that gets the thinking blocks of earlier answers; undefined to leave them out
 */
export function toTurns(messages: readonly ChatMessage[], thinkingModel: string | undefined): Turn[] {
  const turns: Turn[] = [];
  for (const message of messages) {
    const content = contentBlocks(message, thinkingModel);
    if (content.length === 0) continue;
    const role = message.role === 'assistant' ? 'assistant' : 'user';
    const last = turns.at(-1);
    if (last?.role === role) last.content.push(...content);
    else turns.push({ role, content });
  }
  return turns;
}

/**
 * Returns true if the tool calls that are being answered have no thinking block: the client and the store have lost it,
 * or another provider has made the calls. Only the first step of a turn needs one.
 */
export function lacksThinking(messages: readonly ChatMessage[], model: string): boolean {
  const last = messages.findLastIndex(({ role }) => role === 'assistant');
  const lastAnswer = messages[last];
  if (lastAnswer?.role !== 'assistant' || lastAnswer.toolCalls === undefined) return false;
  const turnStart = messages.slice(0, last).findLastIndex(({ role }) => role === 'user') + 1;
  const firstStep = messages.slice(turnStart).find((message) => message.role === 'assistant');
  return !thinkingBlocks(firstStep?.state, model).some(({ before }) => before === 0);
}

/** Returns the content blocks of a message without empty texts, which the API rejects. */
function contentBlocks(message: ChatMessage, thinkingModel: string | undefined): object[] {
  if (message.role === 'system') return [];
  if (message.role === 'tool') {
    return [{ type: 'tool_result', tool_use_id: message.toolCallId, content: message.content }];
  }
  if (typeof message.content !== 'string') return withoutBlankText(message.content).map(userBlock);
  const text = message.content.trim() === '' ? [] : [textBlock(message.content)];
  if (message.role === 'user' || message.toolCalls === undefined) return text;
  const thinking = thinkingModel === undefined ? [] : thinkingBlocks(message.state, thinkingModel);
  const blocksBefore = (index: number) => thinking.filter(({ before }) => before === index).map(({ block }) => block);
  return [
    ...blocksBefore(0),
    ...text,
    ...message.toolCalls.flatMap(({ id, name, arguments: args }, index) => [
      ...(index === 0 ? [] : blocksBefore(index)),
      { type: 'tool_use', id, name, input: parseObject(args) },
    ]),
  ];
}

/**
 * Returns the thinking blocks of an answer as the provider sent them. Since Claude 5.1, the API refuses blocks of
 * another model; older ones ignore them.
 * https://platform.claude.com/docs/en/models/opus-5-5/whats-new-opus-5-5#thinking-blocks-are-tied-to-the-model-that-produced-them
 */
function thinkingBlocks(state: ProviderState | undefined, model: string): { before: number; block: object }[] {
  return (state?.details ?? []).flatMap((detail) => {
    const block = thinkingBlock(detail);
    const isOfModel = typeof detail.model !== 'string' || isSameClaudeModel(detail.model, model);
    return block !== undefined && isOfModel ? [{ before: detail.before ?? 0, block }] : [];
  });
}

function thinkingBlock({ type, format, text, signature, data }: ReasoningDetail): object | undefined {
  if (format !== THINKING_FORMAT) return undefined;
  if (type === 'reasoning.encrypted' && typeof data === 'string') return { type: 'redacted_thinking', data };
  if (type !== 'reasoning.text' || typeof signature !== 'string') return undefined;
  return { type: 'thinking', thinking: typeof text === 'string' ? text : '', signature };
}

function textBlock(text: string, cacheControl?: object): object {
  return { type: 'text', text, ...(cacheControl && { cache_control: cacheControl }) };
}

function userBlock(block: UserContent): object {
  if (block.type === 'text') return textBlock(block.text, block.cacheControl);
  if (block.type === 'image') return { type: 'image', source: sourceOf(block.url) };
  return fileBlock(block);
}

/** Returns a file as a document. The API accepts PDFs and plain text; `unsupportedByClaude` refuses others before. */
function fileBlock({ url, mimeType, filename }: FileContent): object {
  if (mimeType.startsWith('image/')) return { type: 'image', source: sourceOf(url) };
  const title = filename === undefined ? {} : { title: filename };
  const inline = mimeType.startsWith('text/') ? parseDataUrl(url) : undefined;
  if (inline === undefined) return { type: 'document', source: sourceOf(url), ...title };
  const data = Buffer.from(inline.data, 'base64').toString('utf8');
  return { type: 'document', source: { type: 'text', media_type: 'text/plain', data }, ...title };
}

function sourceOf(url: string): object {
  const inline = parseDataUrl(url);
  return inline ? { type: 'base64', media_type: inline.mimeType, data: inline.data } : { type: 'url', url };
}
