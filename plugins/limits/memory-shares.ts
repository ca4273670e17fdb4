import { getHeapStatistics } from 'node:v8';
import type { Config } from '../config/index.ts';
import type { MemoryBounds } from './memory-budget.ts';

/** Returns the memory bounds: as configured, else shares of the largest heap that this process may have. */
export function memoryShares({ limits, streams }: Pick<Config, 'limits' | 'streams'>): {
  prompts: MemoryBounds;
  readers: MemoryBounds;
} {
  const heap = getHeapStatistics().heap_size_limit;
  const promptBytes = limits.promptBytes ?? Math.floor(heap / 8);
  const outputBytes = limits.outputBytes ?? Math.floor(heap / 4);
  return {
    prompts: { total: promptBytes, perOwner: limits.promptBytesPerOwner ?? Math.floor(promptBytes / 2) },
    // A response buffers up to the high-water mark, and the item that went beyond it.
    readers: { total: Math.ceil(outputBytes / (2 * streams.highWaterMark)), perOwner: limits.readersPerOwner },
  };
}
