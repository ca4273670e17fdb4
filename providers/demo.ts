import { setTimeout as sleep } from 'node:timers/promises';
import type { ChatMessage, ChatRequest, Provider } from './types.ts';

/** Milliseconds from word to word: about as fast as a person reads along. */
const WORD_MS = 40;

/** Answers without a key and without a network, so that the first run shows a stream at once. */
export function createDemo(name: string, wordMs: number = WORD_MS): Provider {
  return {
    name,
    supportsContinuation: false,
    async *stream(request: ChatRequest, signal: AbortSignal) {
      const text = answerTo(request);
      const words = text.match(/\s*\S+/gu) ?? [];
      for (const word of words) {
        await sleep(wordMs, undefined, { signal });
        yield { type: 'text', text: word };
      }
      const inputTokens = request.messages.reduce((sum, message) => sum + wordCount(textOf(message)), 0);
      const usage = { inputTokens, outputTokens: words.length, totalTokens: inputTokens + words.length };
      yield { type: 'finish', reason: 'stop', rawReason: 'stop', usage };
    },
    async close() {},
  };
}

function answerTo({ messages }: ChatRequest): string {
  const asked = messages.findLast((message) => message.role === 'user');
  const question = asked ? textOf(asked) : '';
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

function wordCount(text: string): number {
  return text.match(/\S+/gu)?.length ?? 0;
}
