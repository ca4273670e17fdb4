import type { ContentPart } from '../../../providers/types.ts';
import type { Terminal } from '../types.ts';
import { appendSizes, type MergedPart, partSize } from '../units.ts';

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
/**
 * Sizes of the appends of the part before it, but not the last, one UTF-16 unit each. Absent for one append, and in
 * entries of a version that does not keep boundaries: there each part counts as one.
 */
const SIZES = 's';
// Written by the Lua scripts: the terminal and the length. The first entry of each producer has the field `b`
// (begin) and no content.
const TERMINAL = 'e';
const LENGTH = 'n';

/** Returns the fields of an entry, as pairs of name and value. */
export function encodeParts(parts: readonly MergedPart[]): string[] {
  const fields: string[] = [];
  for (const { part, sizes } of parts) {
    if (part.type === 'tool_call' || part.isRefusal || !part.text.isWellFormed())
      fields.push(PART, JSON.stringify(part));
    else fields.push(part.type === 'text' ? TEXT : REASONING, part.text);
    if (sizes !== undefined && sizes.length > 1) fields.push(SIZES, encodeSizes(sizes));
  }
  return fields;
}

/** An append is too small for its size to be half of a surrogate pair. */
function encodeSizes(sizes: readonly number[]): string {
  let encoded = '';
  for (let i = 0; i < sizes.length - 1; i++) encoded += String.fromCharCode(sizes[i] as number);
  return encoded;
}

/** Returns a part with the sizes of an entry; as a part without sizes if they do not fit. */
function withSizes(part: ContentPart, encoded: string): MergedPart {
  const sizes: number[] = [];
  let last = partSize(part);
  for (let i = 0; i < encoded.length; i++) {
    sizes.push(encoded.charCodeAt(i));
    last -= encoded.charCodeAt(i);
  }
  if (encoded === '' || last <= 0 || sizes.includes(0)) return withoutSizes(part);
  sizes.push(last);
  return { part, sizes };
}

function withoutSizes(part: ContentPart): MergedPart {
  const sizes = appendSizes(part);
  return sizes === undefined ? { part } : { part, sizes };
}

export interface LogEntry {
  readonly id: string;
  /** Position at the end of the entry. */
  readonly position: number;
  readonly parts: readonly MergedPart[];
  readonly terminal: Terminal | undefined;
}

/** Decodes an entry as ioredis returns it: its id, and its fields as pairs of name and value. */
export function decodeEntry([id, fields]: [string, string[]]): LogEntry {
  const parts: MergedPart[] = [];
  let position = Number(id.slice(id.indexOf('-') + 1));
  let terminal: Terminal | undefined;
  for (let i = 0; i < fields.length; i += 2) {
    const [name, value] = [fields[i], fields[i + 1] as string];
    if (name === TEXT) parts.push(withoutSizes({ type: 'text', text: value }));
    else if (name === REASONING) parts.push(withoutSizes({ type: 'reasoning', text: value }));
    else if (name === PART) parts.push(withoutSizes(JSON.parse(value) as ContentPart));
    else if (name === SIZES) parts.push(withSizes((parts.pop() as MergedPart).part, value));
    else if (name === TERMINAL) terminal = JSON.parse(value) as Terminal;
    else if (name === LENGTH) position = Number(value);
  }
  return { id, position, parts, terminal };
}
