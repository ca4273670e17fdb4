import type { ContentPart } from '../../../providers/types.ts';
import type { Terminal } from '../types.ts';

/**
 * Parts as the fields of an entry of a Redis Stream, and back. Text stands there as it is; what has
 * more to it, or would not survive UTF-8 (half an emoji), as JSON.
 */

/** An entry's id: who wrote it, as the number of the producer, and where the log ends behind it. */
export function entryId(epoch: number, position: number): string {
  return `${epoch}-${position}`;
}

export function positionOf(id: string): number {
  return Number(id.slice(id.indexOf('-') + 1));
}

const TEXT = 't';
const REASONING = 'r';
const PART = 'p';
export const TERMINAL = 'e';
/** The first entry of each producer: it says only that there is one. */
export const BEGIN = 'b';

export function fieldsOf(parts: readonly ContentPart[]): string[] {
  return parts.flatMap((part) => {
    if (part.type === 'tool_call' || !part.text.isWellFormed()) return [PART, JSON.stringify(part)];
    return [part.type === 'text' ? TEXT : REASONING, part.text];
  });
}

export interface Entry {
  readonly id: string;
  readonly parts: readonly ContentPart[];
  readonly terminal: Terminal | undefined;
}

export function entryOf([id, fields]: [string, string[]]): Entry {
  const parts: ContentPart[] = [];
  let terminal: Terminal | undefined;
  for (let i = 0; i < fields.length; i += 2) {
    const [name, value] = [fields[i], fields[i + 1] as string];
    if (name === TEXT) parts.push({ type: 'text', text: value });
    else if (name === REASONING) parts.push({ type: 'reasoning', text: value });
    else if (name === PART) parts.push(JSON.parse(value) as ContentPart);
    else if (name === TERMINAL) terminal = JSON.parse(value) as Terminal;
  }
  return { id, parts, terminal };
}
