import type { ContentPart } from '../../../../providers/types.ts';
import { appendMerged, partSize } from '../../units.ts';

/** Parts that are written to Redis together. Adjacent parts are merged. */
export class Batch {
  readonly parts: ContentPart[] = [];
  units = 0;

  add(part: ContentPart): void {
    appendMerged(this.parts, part);
    this.units += partSize(part);
  }
}
