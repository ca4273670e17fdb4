import type { ChatMessage, UserContent } from '../types.ts';

/** Changes to messages that several APIs require. */

/** Removes empty and blank texts, which Anthropic and Gemini reject. */
export function withoutBlankText(content: readonly UserContent[]): UserContent[] {
  return content.filter((block) => block.type !== 'text' || block.text.trim() !== '');
}

/**
 * Sorts adjacent tool results in the order of their calls. Gemini and Ollama match a result to its call by the
 * name of the tool, so only the order distinguishes two results of one tool.
 */
export function sortToolResults(messages: readonly ChatMessage[]): ChatMessage[] {
  const order = new Map<string, number>();
  for (const message of messages) {
    const toolCalls = message.role === 'assistant' ? (message.toolCalls ?? []) : [];
    for (const { id } of toolCalls) order.set(id, order.size);
  }
  const sorted: ChatMessage[] = [];
  for (let i = 0; i < messages.length; ) {
    let end = i;
    while (messages[end]?.role === 'tool') end += 1;
    if (end === i) sorted.push(messages[i++] as ChatMessage);
    else {
      const results = messages.slice(i, end);
      sorted.push(...results.sort((a, b) => callOrder(a) - callOrder(b)));
      i = end;
    }
  }
  return sorted;

  function callOrder(message: ChatMessage): number {
    return message.role === 'tool' ? (order.get(message.toolCallId) ?? 0) : 0;
  }
}
