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

/**
 * Most units of one append, plus one to keep a surrogate pair whole. A larger part counts as several appends, so that a
 * reader of whole appends needs no more memory than others. All replicas must agree on this number.
 */
export const MAX_APPEND_UNITS = 4_096;

/** Adjacent appends, merged into one part. */
export interface MergedPart {
  readonly part: ContentPart;
  /** Units of each append, which add up to the units of the part. Absent if the part is one append. */
  readonly sizes?: readonly number[] | undefined;
}

/** Returns the sizes of the appends that a part counts as; undefined if it is one. */
export function appendSizes(part: ContentPart): readonly number[] | undefined {
  const size = partSize(part);
  if (size <= MAX_APPEND_UNITS) return undefined;
  const sizes: number[] = [];
  for (let from = 0; from < size; from += sizes.at(-1) as number) {
    sizes.push(partSize(cutPart(part, from, MAX_APPEND_UNITS) as ContentPart));
  }
  // A surrogate pair at the end of one append makes it a unit longer.
  return sizes.length > 1 ? sizes : undefined;
}

/** Returns the appends that were merged into a part. */
export function splitAppends({ part, sizes }: MergedPart): readonly ContentPart[] {
  if (sizes === undefined) return [part];
  let end = 0;
  return sizes.map((size) => {
    end += size;
    return unitsOf(part, end - size, end);
  });
}

/** Returns the sizes of the appends behind the first `units` units of a part. */
export function sizesAfter(sizes: readonly number[] | undefined, units: number): readonly number[] | undefined {
  if (sizes === undefined || units === 0) return sizes;
  let end = 0;
  return sizes.flatMap((size) => {
    end += size;
    return end > units ? [Math.min(size, end - units)] : [];
  });
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
  const end = from + maxUnits;
  const content = contentOf(part);
  const next = content.charCodeAt(end - headSize(part));
  return unitsOf(part, from, (next & 0xfc00) === 0xdc00 ? end + 1 : end);
}

/** Returns the units of `part` from `from` to `end`, even if a surrogate pair is cut there. */
export function unitsOf(part: ContentPart, from: number, end: number): ContentPart {
  if (from === 0 && end >= partSize(part)) return part;
  const head = headSize(part);
  const content = contentOf(part).slice(Math.max(0, from - head), end - head);
  return from === 0 ? withContent(part, content) : withoutHead(part, content);
}

function headSize(part: ContentPart): number {
  return part.type === 'tool_call' && (part.id !== undefined || part.name !== undefined) ? 1 : 0;
}
