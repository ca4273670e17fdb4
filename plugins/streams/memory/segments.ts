import type { ContentPart } from '../../../providers/types.ts';
import { canMerge, contentOf, cutPart, partSize, withContent, withoutHead } from '../units.ts';

/** How many pieces are joined at a time. */
const PIECES_PER_SEGMENT = 64;

/**
 * The parts of one answer, merged, readable from any position.
 *
 * Content is kept as flat strings of some 64 tokens, and as one string a run once it is sealed.
 * `answer += token` would keep every token and every partial sum alive (measured on Node: ten times
 * the text); a flat string costs one or two bytes a unit, never more than twice its UTF-8.
 */
export class Segments {
  #closed: ContentPart[] = [];
  #starts: number[] = [];
  #closedLength = 0;
  /** What the open run began with; its content stands in `#pieces`. */
  #open: ContentPart | undefined;
  #pieces: string[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  append(part: ContentPart): void {
    this.#length += partSize(part);
    if (this.#open === undefined || !canMerge(this.#open, part)) {
      this.#join();
      this.#open = part;
    }
    this.#pieces.push(contentOf(part));
    if (this.#pieces.length < PIECES_PER_SEGMENT) return;
    const rest = withoutHead(this.#open, '');
    this.#join();
    this.#open = rest;
  }

  /** Parts from `from` on, merged, at most about `limit` units; `from` must not be past the length. */
  slice(from: number, limit: number): ContentPart[] {
    if (from >= this.#closedLength && this.#length - from <= limit) {
      const news = from < this.#length ? this.#openFrom(from) : undefined;
      return news === undefined ? [] : [news];
    }
    const out: ContentPart[] = [];
    let room = limit;
    const add = (part: ContentPart | undefined) => {
      if (part === undefined) return;
      room -= partSize(part);
      const last = out.at(-1);
      if (last !== undefined && canMerge(last, part)) {
        out[out.length - 1] = withContent(last, contentOf(last) + contentOf(part));
      } else out.push(part);
    };
    for (let i = this.#find(from); from < this.#closedLength && i < this.#closed.length && room > 0; i++) {
      add(cutPart(this.#closed[i] as ContentPart, Math.max(0, from - (this.#starts[i] as number)), room));
    }
    const tail = room > 0 && from < this.#length ? this.#openFrom(from) : undefined;
    if (tail !== undefined) add(cutPart(tail, 0, room));
    return out;
  }

  /** All text, without reasoning and tool calls. */
  text(): string {
    this.#join();
    return this.#closed.map((part) => (part.type === 'text' ? part.text : '')).join('');
  }

  /** Call when nothing more will come: whatever can be merged becomes one flat string. */
  seal(): void {
    this.#join();
    const runs: ContentPart[][] = [];
    for (const part of this.#closed) {
      const run = runs.at(-1);
      if (run?.[0] !== undefined && canMerge(run[0], part)) run.push(part);
      else runs.push([part]);
    }
    this.#closed = [];
    this.#starts = [];
    this.#closedLength = 0;
    for (const run of runs) this.#push(withContent(run[0] as ContentPart, run.map(contentOf).join('')));
  }

  #push(part: ContentPart): void {
    this.#closed.push(part);
    this.#starts.push(this.#closedLength);
    this.#closedLength += partSize(part);
  }

  #join(): void {
    if (this.#pieces.length > 0) this.#push(withContent(this.#open as ContentPart, this.#pieces.join('')));
    this.#open = undefined;
    this.#pieces = [];
  }

  /** The last closed segment that starts at or before `position`. */
  #find(position: number): number {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#starts[middle] as number) <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The open run from `from` on. A reader that keeps up wants the last piece or two of it. */
  #openFrom(from: number): ContentPart | undefined {
    if (this.#open === undefined) return undefined;
    const pieces = this.#pieces;
    if (from <= this.#closedLength) return withContent(this.#open, pieces.join(''));
    let first = pieces.length;
    let start = this.#length;
    while (start > from) start -= (pieces[--first] as string).length;
    const content = first === pieces.length - 1 ? (pieces[first] as string) : pieces.slice(first).join('');
    return withoutHead(this.#open, start === from ? content : content.slice(from - start));
  }
}
