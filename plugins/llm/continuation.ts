import type { ChatRequest } from '../../providers/types.ts';

/** What the next model is told where a route does not say otherwise. */
export const CONTINUE_PROMPT =
  'Your answer was cut off. Go on exactly where it stopped, in the same language and form. Do not repeat anything, do not apologise, do not comment: write only what comes next.';

/** The question, the answer so far, and the wish for its rest. */
export function appendContinuation<T extends Pick<ChatRequest, 'messages'>>(
  asked: T,
  answer: string,
  instruction: string,
): T {
  return {
    ...asked,
    messages: [...asked.messages, { role: 'assistant', content: answer }, { role: 'user', content: instruction }],
  };
}
