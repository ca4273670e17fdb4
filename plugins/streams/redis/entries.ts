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

/** Where the end of a log stands: no entry of its producer can follow it. */
export const END_POSITION = Number.MAX_SAFE_INTEGER;

const TEXT = 't';
const REASONING = 'r';
const PART = 'p';
// As `scripts.ts` writes them; the first entry of each producer, `b`, says only that there is one.
const TERMINAL = 'e';
const LENGTH = 'n';

export function encodeParts(parts: readonly ContentPart[]): string[] {
  return parts.flatMap((part) => {
    if (part.type === 'tool_call' || !part.text.isWellFormed()) return [PART, JSON.stringify(part)];
    return [part.type === 'text' ? TEXT : REASONING, part.text];
  });
}

export interface Entry {
  readonly id: string;
  /** Where the log ends behind it. */
  readonly position: number;
  readonly parts: readonly ContentPart[];
  readonly terminal: Terminal | undefined;
}

export function decodeEntry([id, fields]: [string, string[]]): Entry {
  const parts: ContentPart[] = [];
  let position = Number(id.slice(id.indexOf('-') + 1));
  let terminal: Terminal | undefined;
  for (let i = 0; i < fields.length; i += 2) {
    const [name, value] = [fields[i], fields[i + 1] as string];
    if (name === TEXT) parts.push({ type: 'text', text: value });
    else if (name === REASONING) parts.push({ type: 'reasoning', text: value });
    else if (name === PART) parts.push(JSON.parse(value) as ContentPart);
    else if (name === TERMINAL) terminal = JSON.parse(value) as Terminal;
    else if (name === LENGTH) position = Number(value);
  }
  return { id, position, parts, terminal };
}
