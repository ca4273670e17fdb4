import type { ChatRequest } from '../types.ts';
import { reasoningOf } from './reasoning.ts';

/**
 * Asks Gemini models to think, by the rules of their names. Gemini 3 and later have levels, Gemini 2.5 has a number of
 * tokens, and older models do not think: https://ai.google.dev/gemini-api/docs/thinking. As of November 2026.
 */

const LEVELS: Readonly<Record<string, string>> = { minimal: 'low', low: 'low', medium: 'medium', high: 'high' };
/** Tokens of thinking by effort, for Gemini 2.5. */
const BUDGETS: Readonly<Record<string, number>> = { minimal: 1_024, low: 4_096, medium: 8_192, high: 24_576 };
/** Gemini 2.5 Pro cannot be asked not to think. */
const MIN_PRO_BUDGET = 128;

/** Returns the `thinkingConfig` of a request; nothing if the request does not say how to think, or the model does not. */
export function geminiThinking({ model, options }: ChatRequest): { thinkingConfig?: object } {
  const reasoning = reasoningOf(options);
  if (reasoning === undefined || /gemini-(1|2\.0)\b/.test(model)) return {};
  const { isEnabled, effort = 'medium', budgetTokens } = reasoning;
  if (/gemini-2\.5\b/.test(model)) {
    const least = model.includes('pro') ? MIN_PRO_BUDGET : 0;
    const thinkingBudget = isEnabled ? (budgetTokens ?? BUDGETS[effort] ?? BUDGETS.high) : least;
    return { thinkingConfig: { thinkingBudget, ...(isEnabled && { includeThoughts: true }) } };
  }
  // The least that a model has: Flash has a level below `low`.
  if (!isEnabled) return { thinkingConfig: { thinkingLevel: model.includes('flash') ? 'minimal' : 'low' } };
  return { thinkingConfig: { thinkingLevel: LEVELS[effort] ?? 'high', includeThoughts: true } };
}
