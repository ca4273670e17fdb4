import type { ContentPart } from '../../../providers/types.ts';
import type { PlacedAppend, PlacedPart } from '../types.ts';
import { type MergedPart, partSize, splitAppends } from '../units.ts';
import { Boundaries } from './boundaries.ts';
import { Segments } from './segments.ts';

/** The parts of one log, merged, and the boundaries of its appends. */
export class LogContent {
  readonly #segments = new Segments();
  readonly #boundaries = new Boundaries();

  /** Units in the log. */
  get length(): number {
    return this.#segments.length;
  }
  /** Number of appends in the log. */
  get appends(): number {
    return this.#boundaries.count;
  }

  /**
   * Appends one append, or several that are merged.
   * @param part a part with at least one unit
   * @param units the size of the part
   * @param sizes units of each append; undefined for one
   */
  append(part: ContentPart, units: number, sizes: readonly number[] | undefined): void {
    let end = this.length;
    this.#segments.append(part, units);
    if (sizes === undefined) this.#boundaries.push(end + units);
    else {
      for (const size of sizes) {
        end += size;
        this.#boundaries.push(end);
      }
    }
  }

  /** Returns the merged parts behind a position: at most `limit` units, plus one to keep a surrogate pair whole. */
  slice(position: number, limit: number): PlacedPart[] {
    let end = position;
    return this.#segments.slice(position, limit).map((part) => {
      end += partSize(part);
      return { part, position: end };
    });
  }

  /** Returns the appends behind the first `count`: as many as fit into `limit` units, and at least one. */
  sliceAppends(count: number, limit: number): PlacedAppend[] {
    let end = this.endOf(count);
    let index = count;
    return this.merged(end, limit)
      .flatMap((merged) => splitAppends(merged))
      .map((part) => {
        end += partSize(part);
        return { part, position: end, index: index++ };
      });
  }

  /** Returns the appends behind a position, adjacent ones merged: as many as fit into `limit` units, and at least one. */
  merged(position: number, limit: number): MergedPart[] {
    const boundaries = this.#boundaries;
    let count = boundaries.countUpTo(position);
    let end = position;
    const fitting = Math.max(boundaries.countUpTo(position + limit), Math.min(count + 1, boundaries.count));
    return this.#segments.range(position, boundaries.endOf(fitting)).map((part) => {
      const partEnd = end + partSize(part);
      const sizes: number[] = [];
      while (end < partEnd) {
        count += 1;
        sizes.push(boundaries.endOf(count) - end);
        end = boundaries.endOf(count);
      }
      return { part, sizes };
    });
  }

  /** Returns the position behind the first `count` appends, which must exist. */
  endOf(count: number): number {
    return this.#boundaries.endOf(count);
  }

  /** Returns all text, without reasoning and tool calls. */
  text(): string {
    return this.#segments.text();
  }

  /** Call after the last append. */
  seal(): void {
    this.#segments.seal();
    this.#boundaries.seal();
  }
}
