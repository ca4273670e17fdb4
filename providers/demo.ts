import { setTimeout as sleep } from 'node:timers/promises';
import type { ChatMessage, ChatRequest, Provider } from './types.ts';
import { unsupportedOption } from './wire/unsupported.ts';

/** Time between two words: about reading speed. */
const WORD_INTERVAL_MS = 40;

/**
 * Creates a provider that answers without a key and without a network, so that the first run shows a stream.
 * @param wordIntervalMs milliseconds between two words
 */
export function createDemo(name: string, wordIntervalMs: number = WORD_INTERVAL_MS): Provider {
  return {
    name,
    supportsContinuation: false,
    unsupported: (request) => unsupportedOption(request, 'demo'),
    async *stream(request: ChatRequest, signal: AbortSignal) {
      const text = demoAnswer(request);
      const words = text.trimEnd().match(/\s*\S+/gu) ?? [];
      for (const word of words) {
        await sleep(wordIntervalMs, undefined, { signal });
        yield { type: 'text', text: word };
      }
      const inputTokens = request.messages.reduce((sum, message) => sum + countWords(textOf(message)), 0);
      const usage = { inputTokens, outputTokens: words.length, totalTokens: inputTokens + words.length };
      yield { type: 'finish', reason: 'stop', rawReason: 'stop', usage };
    },
    async close() {},
  };
}

function demoAnswer({ messages }: ChatRequest): string {
  const lastQuestion = messages.findLast((message) => message.role === 'user');
  const question = lastQuestion ? textOf(lastQuestion) : '';
  return [
    `You asked: “${question}”`,
    'I am the demo provider that is built into Sluice, so I cannot know the answer, but I can show you how one arrives: word by word, over one plain HTTP response that any browser’s EventSource can read.',
    'To hear from a real model, set a key such as BELLA_API_KEY and DEFAULT_MODEL=bella/gpt-4o, and ask again. 🌊',
  ].join('\n\n');
}

function textOf({ content }: ChatMessage): string {
  if (typeof content === 'string') return content;
  return content.map((block) => (block.type === 'text' ? block.text : '')).join(' ');
}

function countWords(text: string): number {
  return text.match(/\S+/gu)?.length ?? 0;
}
