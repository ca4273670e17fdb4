import type { ContentPart } from '../../../../providers/types.ts';
import { canMerge, contentOf, partSize, withContent } from '../../units.ts';

/** Parts that are written to Redis together. Adjacent parts are merged. */
export class Batch {
  readonly parts: ContentPart[] = [];
  units = 0;

  add(part: ContentPart): void {
    const last = this.parts.at(-1);
    if (last !== undefined && canMerge(last, part)) {
      this.parts[this.parts.length - 1] = withContent(last, contentOf(last) + contentOf(part));
    } else this.parts.push(part);
    this.units += partSize(part);
  }
}
