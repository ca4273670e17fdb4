import type { Answer, AnswerError, AnswerEvent } from '../../client/client.ts';

/** Helpers that collect the events, text and failure of an answer. */

export async function collect(answer: Answer): Promise<AnswerEvent[]> {
  const events: AnswerEvent[] = [];
  for await (const event of answer) events.push(event);
  return events;
}

export const textOf = (events: readonly AnswerEvent[]) =>
  events.map((event) => (event.type === 'delta' ? event.content : '')).join('');

export const failureOf = (answer: Answer) =>
  answer.answer.then(
    () => undefined,
    (error: AnswerError) => error,
  );
