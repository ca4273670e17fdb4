import type { FinishPart, StreamPart } from '../../providers/types.ts';

export interface Collected {
  text: string;
  reasoning: string;
  toolCalls: { id: string | null; name: string; arguments: string }[];
  finish: FinishPart | undefined;
  error: unknown;
}

export function empty(): Collected {
  return { text: '', reasoning: '', toolCalls: [], finish: undefined, error: undefined };
}

export function add(into: Collected, part: StreamPart): void {
  if (part.type === 'finish') into.finish = part;
  else if (part.type === 'finishing' || part.type === 'thinking') return;
  else if (part.type !== 'tool_call') into[part.type] += part.text;
  else {
    into.toolCalls[part.index] ??= { id: null, name: '', arguments: '' };
    const call = into.toolCalls[part.index] as Collected['toolCalls'][number];
    if (part.id !== undefined) call.id = part.id;
    call.name += part.name ?? '';
    call.arguments += part.arguments;
  }
}

/** Collects all parts of a stream, and the error that ended it. */
export async function collect(parts: AsyncIterable<StreamPart>): Promise<Collected> {
  const collected = empty();
  try {
    for await (const part of parts) add(collected, part);
  } catch (error) {
    collected.error = error;
  }
  return collected;
}
