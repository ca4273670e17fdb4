import type { Usage } from '../types.ts';

/** Returns the counts that are numbers; undefined if there are none. */
export function usageFrom(counts: Partial<Record<keyof Usage, unknown>>): Usage | undefined {
  const numbers = Object.entries(counts).filter(([, value]) => typeof value === 'number');
  return numbers.length > 0 ? Object.fromEntries(numbers) : undefined;
}
