import type { ContentPart } from '../../../../providers/types.ts';
import {
  appendSizes,
  canMerge,
  contentOf,
  MAX_APPEND_UNITS,
  type MergedPart,
  partSize,
  withContent,
} from '../../units.ts';

/** Parts that are written to Redis together. Adjacent parts are merged; their boundaries are kept. */
export class Batch {
  readonly parts: (MergedPart & { part: ContentPart; readonly sizes: number[] })[] = [];
  units = 0;

  add(part: ContentPart): void {
    const units = partSize(part);
    if (units === 0) return;
    this.units += units;
    let last = this.parts.at(-1);
    if (last === undefined || !canMerge(last.part, part)) {
      last = { part, sizes: [] };
      this.parts.push(last);
    } else last.part = withContent(last.part, contentOf(last.part) + contentOf(part));
    if (units <= MAX_APPEND_UNITS) last.sizes.push(units);
    else last.sizes.push(...(appendSizes(part) ?? [units]));
  }
}
