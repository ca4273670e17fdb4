import type { ContentPart } from '../../providers/types.ts';
import { contentOf, continues, cutPart, headless, partSize, withContent } from './part.ts';

/** The parts of one answer, merged, readable from any position. */
export interface Segments {
  readonly length: number;
  append(part: ContentPart): void;
  /** Parts from `from` on, merged, at most about `limit` units; `from` must not be past the length. */
  slice(from: number, limit: number): ContentPart[];
  /** All text, without reasoning and tool calls. */
  text(): string;
  /** Call when nothing more will come: whatever can be merged becomes one flat string. */
  seal(): void;
}

/** How many pieces are joined at a time. */
const JOIN = 64;

/**
 * Content is kept as flat strings of some 64 tokens, and as one string a run once it is sealed.
 * `answer += token` would keep every token and every partial sum alive (measured on Node: ten times
 * the text); a flat string costs one or two bytes a unit, never more than twice its UTF-8.
 */
export function createSegments(): Segments {
  let closed: ContentPart[] = [];
  let starts: number[] = [];
  let closedLength = 0;
  /** What the open run began with; its content stands in `pieces`. */
  let open: ContentPart | undefined;
  let pieces: string[] = [];
  let length = 0;

  const push = (part: ContentPart) => {
    closed.push(part);
    starts.push(closedLength);
    closedLength += partSize(part);
  };

  const join = () => {
    if (open !== undefined) push(withContent(open, pieces.join('')));
    open = undefined;
    pieces = [];
  };

  /** The last closed segment that starts at or before `position`. */
  const find = (position: number) => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((starts[middle] as number) <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  };

  /** The open run from `from` on. A reader that keeps up wants the last piece or two of it. */
  const openFrom = (from: number): ContentPart | undefined => {
    if (open === undefined) return undefined;
    if (from <= closedLength) return withContent(open, pieces.join(''));
    let first = pieces.length;
    let start = length;
    while (start > from) start -= (pieces[--first] as string).length;
    const content = first === pieces.length - 1 ? (pieces[first] as string) : pieces.slice(first).join('');
    return headless(open, start === from ? content : content.slice(from - start));
  };

  return {
    get length() {
      return length;
    },
    append(part) {
      length += partSize(part);
      if (open !== undefined && continues(open, part)) pieces.push(contentOf(part));
      else {
        join();
        open = part;
        pieces.push(contentOf(part));
      }
      if (pieces.length < JOIN) return;
      const rest = headless(open, '');
      join();
      // Arguments that go on belong to the same call; an empty run costs nothing.
      open = rest;
    },
    slice(from, limit) {
      const out: ContentPart[] = [];
      let room = limit;
      const add = (part: ContentPart | undefined) => {
        if (part === undefined) return;
        room -= partSize(part);
        const last = out.at(-1);
        if (last !== undefined && continues(last, part)) {
          out[out.length - 1] = withContent(last, contentOf(last) + contentOf(part));
        } else out.push(part);
      };
      for (let i = find(from); from < closedLength && i < closed.length && room > 0; i++) {
        add(cutPart(closed[i] as ContentPart, Math.max(0, from - (starts[i] as number)), room));
      }
      const tail = room > 0 && from < length ? openFrom(from) : undefined;
      if (tail !== undefined) add(cutPart(tail, 0, room));
      return out;
    },
    text() {
      join();
      return closed.map((part) => (part.type === 'text' ? part.text : '')).join('');
    },
    seal() {
      join();
      const runs: ContentPart[][] = [];
      for (const part of closed) {
        const run = runs.at(-1);
        if (run?.[0] !== undefined && continues(run[0], part)) run.push(part);
        else runs.push([part]);
      }
      closed = [];
      starts = [];
      closedLength = 0;
      for (const run of runs) push(withContent(run[0] as ContentPart, run.map(contentOf).join('')));
    },
  };
}
