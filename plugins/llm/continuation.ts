import type { ChatRequest } from '../../providers/types.ts';

/** Returns the prompt with the partial answer and the instruction to continue it. */
export function appendContinuation<T extends Pick<ChatRequest, 'messages'>>(
  prompt: T,
  partialAnswer: string,
  instruction: string,
): T {
  return {
    ...prompt,
    messages: [
      ...prompt.messages,
      { role: 'assistant', content: partialAnswer },
      { role: 'user', content: instruction },
    ],
  };
}
