import type { ContentPart, TextPart } from '../../providers/types.ts';

/**
 * Positions count units: each UTF-16 unit of text, reasoning or arguments is one unit, and the head of a
 * tool call (`id` and `name`) is one. Each event ends at a position, so reading can resume after it.
 */

/** Returns the text of a part, or the arguments of a tool call. */
export function contentOf(part: ContentPart): string {
  return part.type === 'tool_call' ? part.arguments : part.text;
}

/** Returns the number of units of a part. */
export function partSize(part: ContentPart): number {
  return headSize(part) + contentOf(part).length;
}

/** Returns true if `next` continues `part`, so that both can be merged into one part. */
export function canMerge(part: ContentPart, next: ContentPart): boolean {
  if (part.type !== 'tool_call' && next.type !== 'tool_call') {
    return part.type === next.type && part.isRefusal === next.isRefusal;
  }
  if (part.type !== 'tool_call' || next.type !== 'tool_call') return false;
  return part.index === next.index && headSize(next) === 0;
}

/** Appends a part to a list, or merges it into the last part. */
export function appendMerged(parts: ContentPart[], part: ContentPart): void {
  const last = parts.at(-1);
  if (last === undefined || !canMerge(last, part)) parts.push(part);
  else parts[parts.length - 1] = withContent(last, contentOf(last) + contentOf(part));
}

/** Returns the part with other content. */
export function withContent(part: ContentPart, content: string): ContentPart {
  return part.type === 'tool_call' ? { ...part, arguments: content } : withText(part, content);
}

/** Returns the part with other content and without the head of a tool call. */
export function withoutHead(part: ContentPart, content: string): ContentPart {
  return part.type === 'tool_call'
    ? { type: 'tool_call', index: part.index, arguments: content }
    : withText(part, content);
}

function withText({ type, isRefusal }: TextPart, text: string): TextPart {
  return isRefusal ? { type, text, isRefusal } : { type, text };
}

/**
 * Returns the units of `part` from `from` on, at most `maxUnits`, or one more to keep a surrogate pair
 * whole; undefined if there are none.
 */
export function cutPart(part: ContentPart, from: number, maxUnits: number): ContentPart | undefined {
  const size = partSize(part);
  if (from >= size) return undefined;
  if (from === 0 && size <= maxUnits) return part;
  const head = headSize(part);
  const content = contentOf(part);
  const start = Math.max(0, from - head);
  let end = Math.min(content.length, from + maxUnits - head);
  if (end < content.length && (content.charCodeAt(end) & 0xfc00) === 0xdc00) end += 1;
  const rest = content.slice(start, end);
  return from === 0 ? withContent(part, rest) : withoutHead(part, rest);
}

function headSize(part: ContentPart): number {
  return part.type === 'tool_call' && (part.id !== undefined || part.name !== undefined) ? 1 : 0;
}
