import type { ContentPart } from '../../../providers/types.ts';
import { appendMerged, partSize } from '../units.ts';
import type { MemoryLog } from './log.ts';

/** Returns all parts of a log, adjacent content merged. */
export function partsOf(log: MemoryLog): ContentPart[] {
  const parts: ContentPart[] = [];
  for (let position = 0; position < log.length; ) {
    for (const { part } of log.mergedFrom(position)) {
      position += partSize(part);
      appendMerged(parts, part);
    }
  }
  return parts;
}
