import type { ContentPart } from '../../../providers/types.ts';
import { appendMerged, canMerge, contentOf, cutPart, partSize, unitsOf, withContent, withoutHead } from '../units.ts';

/** Number of pieces that are joined into one segment. */
const PIECES_PER_SEGMENT = 64;

/**
 * The parts of one answer, merged and readable from any position.
 *
 * A piece is the content of one appended part. Up to 64 pieces are joined into a segment, which is a flat
 * string. A run is a series of segments that can be merged; `seal` makes one segment of each run.
 * `answer += token` would keep every token and every intermediate string alive (ten times the text, measured on
 * Node). A flat string costs one or two bytes per unit, at most twice its UTF-8.
 */
export class Segments {
  #closed: ContentPart[] = [];
  #starts: number[] = [];
  #closedLength = 0;
  /** First part of the open run. Its content is in `#pieces`. */
  #open: ContentPart | undefined;
  #pieces: string[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** @param units the size of the part, if it is known */
  append(part: ContentPart, units = partSize(part)): void {
    this.#length += units;
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

  /**
   * Returns the merged parts from `from` on, at most `limit` units, plus one to keep a surrogate pair whole.
   * `from` must not exceed the length.
   */
  slice(from: number, limit: number): ContentPart[] {
    if (from >= this.#closedLength && this.#length - from <= limit) {
      const tail = from < this.#length ? this.#openFrom(from) : undefined;
      return tail === undefined ? [] : [tail];
    }
    const out: ContentPart[] = [];
    let remaining = limit;
    const add = (part: ContentPart | undefined) => {
      if (part === undefined) return;
      remaining -= partSize(part);
      appendMerged(out, part);
    };
    for (let i = this.#find(from); from < this.#closedLength && i < this.#closed.length && remaining > 0; i++) {
      add(cutPart(this.#closed[i] as ContentPart, Math.max(0, from - (this.#starts[i] as number)), remaining));
    }
    const tail = remaining > 0 && from < this.#length ? this.#openFrom(from) : undefined;
    if (tail !== undefined) add(cutPart(tail, 0, remaining));
    return out;
  }

  /** Returns the merged parts from `from` to `to`, even if a surrogate pair is cut there. */
  range(from: number, to: number): ContentPart[] {
    const parts = this.slice(from, to - from);
    const excess = parts.reduce((sum, part) => sum + partSize(part), from) - to;
    const last = parts.at(-1);
    if (last !== undefined && excess > 0) parts[parts.length - 1] = unitsOf(last, 0, partSize(last) - excess);
    return parts;
  }

  /** Returns all text, without reasoning and tool calls. */
  text(): string {
    this.#join();
    const [first = '', ...others] = this.#closed.flatMap((part) => (part.type === 'text' ? [part.text] : []));
    return others.length === 0 ? first : [first, ...others].join('');
  }

  /** Call after the last append: merges each run into one flat string. */
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

  /** Returns the index of the last closed segment that starts at or before `position`. */
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

  /** Returns the open run from `from` on. A reader that keeps up needs only its last pieces. */
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
