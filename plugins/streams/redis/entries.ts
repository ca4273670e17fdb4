import type { ContentPart } from '../../../providers/types.ts';
import type { Terminal } from '../types.ts';

/**
 * Encodes parts as fields of an entry in a Redis Stream, and decodes them. Text is stored as it is. Tool
 * calls, refusals, and text that would not survive UTF-8 (half a surrogate pair), are stored as JSON.
 */

/** Returns the id of an entry: the epoch of its producer, and the position at its end. */
export function entryId(epoch: number, position: number): string {
  return `${epoch}-${position}`;
}

/** Position of the terminal. No entry of the same producer can follow it. */
export const END_POSITION = Number.MAX_SAFE_INTEGER;

const TEXT = 't';
const REASONING = 'r';
const PART = 'p';
// Written by the Lua scripts: the terminal and the length. The first entry of each producer has the field `b`
// (begin) and no content.
const TERMINAL = 'e';
const LENGTH = 'n';

/** Returns the fields of an entry, as pairs of name and value. */
export function encodeParts(parts: readonly ContentPart[]): string[] {
  return parts.flatMap((part) => {
    if (part.type === 'tool_call' || part.isRefusal || !part.text.isWellFormed()) return [PART, JSON.stringify(part)];
    return [part.type === 'text' ? TEXT : REASONING, part.text];
  });
}

export interface LogEntry {
  readonly id: string;
  /** Position at the end of the entry. */
  readonly position: number;
  readonly parts: readonly ContentPart[];
  readonly terminal: Terminal | undefined;
}

/** Decodes an entry as ioredis returns it: its id, and its fields as pairs of name and value. */
export function decodeEntry([id, fields]: [string, string[]]): LogEntry {
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
