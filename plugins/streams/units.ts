import type { ContentPart } from '../../providers/types.ts';

/**
 * Parts as runs of units: one UTF-16 unit of text, reasoning or arguments each, and one for the
 * `id` and `name` of a tool call, which come in one piece. A position counts units, so that every
 * delivered event ends at a place from which reading can go on.
 */

export function contentOf(part: ContentPart): string {
  return part.type === 'tool_call' ? part.arguments : part.text;
}

export function partSize(part: ContentPart): number {
  return headSize(part) + contentOf(part).length;
}

/** Whether `next` only goes on with what `part` began, so that both make one part. */
export function canMerge(part: ContentPart, next: ContentPart): boolean {
  if (part.type !== 'tool_call' || next.type !== 'tool_call') return part.type === next.type;
  return part.index === next.index && headSize(next) === 0;
}

export function withContent(part: ContentPart, content: string): ContentPart {
  return part.type === 'tool_call' ? { ...part, arguments: content } : { type: part.type, text: content };
}

/** `part` without what only its beginning carries. */
export function withoutHead(part: ContentPart, content: string): ContentPart {
  return part.type === 'tool_call'
    ? { type: 'tool_call', index: part.index, arguments: content }
    : { type: part.type, text: content };
}

/**
 * The units of `part` from `from` on, at most `room` of them, or one more where that would cut a
 * surrogate pair; undefined if there are none.
 */
export function cutPart(part: ContentPart, from: number, room: number): ContentPart | undefined {
  const size = partSize(part);
  if (from >= size) return undefined;
  if (from === 0 && size <= room) return part;
  const head = headSize(part);
  const content = contentOf(part);
  const start = Math.max(0, from - head);
  let end = Math.min(content.length, from + room - head);
  if (end < content.length && (content.charCodeAt(end) & 0xfc00) === 0xdc00) end += 1;
  const rest = content.slice(start, end);
  return from === 0 ? withContent(part, rest) : withoutHead(part, rest);
}

function headSize(part: ContentPart): number {
  return part.type === 'tool_call' && (part.id !== undefined || part.name !== undefined) ? 1 : 0;
}
