import type { Usage } from '../types.ts';

/** The counts that are numbers; undefined if none is. */
export function usageFrom(given: Partial<Record<keyof Usage, unknown>>): Usage | undefined {
  const numbers = Object.entries(given).filter(([, value]) => typeof value === 'number');
  return numbers.length > 0 ? Object.fromEntries(numbers) : undefined;
}
