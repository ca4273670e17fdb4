import type { ChatMessage, ImageContent, TextContent } from '../types.ts';

/** What several APIs ask of messages. */

/** Without texts that are empty or blank, which Anthropic and Gemini refuse. */
export function withoutBlankText(content: readonly (TextContent | ImageContent)[]): (TextContent | ImageContent)[] {
  return content.filter((block) => block.type === 'image' || block.text.trim() !== '');
}

/**
 * Results in the order of their calls: Gemini and Ollama know them by the name of the tool alone, so
 * that two results of one tool are told apart by their order.
 */
export function sortToolResults(messages: readonly ChatMessage[]): ChatMessage[] {
  const order = new Map<string, number>();
  for (const message of messages) {
    const calls = message.role === 'assistant' ? (message.toolCalls ?? []) : [];
    for (const { id } of calls) order.set(id, order.size);
  }
  const sorted: ChatMessage[] = [];
  for (let i = 0; i < messages.length; ) {
    let end = i;
    while (messages[end]?.role === 'tool') end += 1;
    if (end === i) sorted.push(messages[i++] as ChatMessage);
    else {
      const run = messages.slice(i, end);
      sorted.push(...run.sort((a, b) => callOrder(a) - callOrder(b)));
      i = end;
    }
  }
  return sorted;

  function callOrder(message: ChatMessage): number {
    return message.role === 'tool' ? (order.get(message.toolCallId) ?? 0) : 0;
  }
}
