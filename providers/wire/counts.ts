import type { Usage } from '../types.ts';

/**
 * Merges two reports of the same answer. Counts are cumulative, so the larger one counts: some gateways send a
 * smaller or empty report last. A report with a larger total is the newer one: Gemini corrects its estimate of the
 * input tokens in the last one.
 */
export function mergeUsage(known: Usage | undefined, next: Usage | undefined): Usage | undefined {
  if (known === undefined || next === undefined) return next ?? known;
  if (known.totalTokens !== undefined && known.totalTokens < (next.totalTokens ?? 0)) return { ...known, ...next };
  const merged: Record<string, number> = { ...known };
  for (const [name, count] of Object.entries(next)) merged[name] = Math.max(merged[name] ?? 0, count);
  return merged;
}

/** Returns undefined for 0, where 0 may mean that nobody has counted. */
export function nonZero(value: unknown): unknown {
  return value === 0 ? undefined : value;
}

/** Returns the counts that are numbers; undefined if there are none. */
export function usageFrom(counts: Partial<Record<keyof Usage, unknown>>): Usage | undefined {
  const numbers = Object.entries(counts).filter(([, value]) => typeof value === 'number');
  return numbers.length > 0 ? Object.fromEntries(numbers) : undefined;
}
