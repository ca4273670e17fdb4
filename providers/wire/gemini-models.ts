import type { ChatRequest } from '../types.ts';
import { type Reasoning, reasoningOf } from './reasoning.ts';
import { jsonFormatOf } from './response-format.ts';

/**
 * The differences between Gemini models. Unknown and newer names get the rules of the newest models. Sources, read on
 * 2026-11-26: https://ai.google.dev/gemini-api/docs/thinking, and the guides of each model at
 * https://docs.cloud.google.com/gemini-enterprise-agent-platform/models.
 */

/** Version of names without one, such as `gemini-flash-latest`. */
const NEWEST = 99;

/** Budgets by effort: https://ai.google.dev/gemini-api/docs/openai#thinking */
const BUDGETS: Readonly<Record<string, number>> = {
  minimal: 1_024,
  low: 1_024,
  medium: 8_192,
  high: 24_576,
  xhigh: 24_576,
  max: 24_576,
};

/** Returns the version as a number: 2.5 or 3. Other models with the API, such as Gemma, have none. */
function versionOf(model: string): number {
  const version = /gemini-(\d{1,2}(?:\.\d{1,2})?)(?!\d)/.exec(model)?.[1];
  if (version !== undefined) return Number(version);
  return model.includes('gemma') || model.includes('learnlm') ? 0 : NEWEST;
}

/** Returns true if the model refuses a step of tool calls without a thought signature. */
export function needsSignature(model: string): boolean {
  return versionOf(model) >= 3;
}

/**
 * Returns false if the model refuses `presencePenalty` and `frequencyPenalty`. It ignores other sampling options.
 * https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/gemini/3-6-flash
 */
export function hasPenalties(model: string): boolean {
  return versionOf(model) < 3.6;
}

/** Returns `thinkingConfig`; undefined if the request does not ask for anything, or the model does not think. */
export function thinkingConfigOf({ model, options }: ChatRequest): object | undefined {
  const reasoning = reasoningOf(options);
  const version = versionOf(model);
  if (reasoning === undefined || version < 2.5) return undefined;
  return {
    ...(version < 3 ? budgetOf(reasoning, model) : levelOf(reasoning, model, version)),
    ...(reasoning.isEnabled && { includeThoughts: true }),
  };
}

/** Gemini 2.5. Only Flash can answer without thinking; Flash-Lite thinks only on request. */
function budgetOf({ isEnabled, effort, budgetTokens }: Reasoning, model: string): { thinkingBudget?: number } {
  const [min, max] = model.includes('pro') ? [128, 32_768] : [model.includes('lite') ? 512 : 1, 24_576];
  if (!isEnabled) return { thinkingBudget: model.includes('pro') ? min : 0 };
  const wanted = budgetTokens ?? BUDGETS[effort ?? ''];
  if (wanted !== undefined) return { thinkingBudget: Math.max(min, Math.min(wanted, max)) };
  return model.includes('lite') ? { thinkingBudget: -1 } : {};
}

/**
 * Gemini 3 and later, which cannot answer without thinking. `minimal` exists in Flash and Flash-Lite, but no longer
 * since 3.7 (dzivkovi/video-intel, release 2.7.1); `medium` does not exist in Gemini 3 Pro.
 */
function levelOf({ isEnabled, effort, budgetTokens }: Reasoning, model: string, version: number): object {
  const lowest = model.includes('flash') && version < 3.7 ? 'minimal' : 'low';
  if (!isEnabled) return { thinkingLevel: lowest };
  const wanted = effort ?? (budgetTokens === undefined ? undefined : effortOf(budgetTokens));
  if (wanted === 'minimal') return { thinkingLevel: lowest };
  if (wanted === 'low') return { thinkingLevel: 'low' };
  if (wanted === 'medium') return { thinkingLevel: version === 3 && model.includes('pro') ? 'high' : 'medium' };
  // An unknown word would be refused; the default of the model is used instead.
  return ['high', 'xhigh', 'max'].includes(wanted ?? '') ? { thinkingLevel: 'high' } : {};
}

/** Returns the effort that has about this budget in Gemini 2.5. */
function effortOf(budgetTokens: number): string {
  return budgetTokens <= 4_096 ? 'low' : budgetTokens <= 16_384 ? 'medium' : 'high';
}

/**
 * Returns the name of an option that the model cannot express and that would change the answer, in addition to the table
 * of options. Before Gemini 3, a JSON format excludes tools: "Function calling with a response mime type:
 * 'application/json' is unsupported" (googleapis/python-genai#867).
 */
export function unsupportedByGemini({ model, tools, options }: ChatRequest): string | undefined {
  const isExcluded = tools !== undefined && versionOf(model) < 3 && jsonFormatOf(options) !== undefined;
  return isExcluded ? 'response_format' : undefined;
}
