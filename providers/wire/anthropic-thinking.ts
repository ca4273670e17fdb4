import type { ChatRequest } from '../types.ts';
import type { ClaudeModel } from './claude-models.ts';
import { type Reasoning, reasoningOf } from './reasoning.ts';

/** Thinking and effort of a request, in the form of the Messages API. */
export interface Thinking {
  /** The field `thinking`; undefined if it is left out. */
  readonly config?: { readonly type: string; readonly [field: string]: unknown };
  /** `output_config.effort`. */
  readonly effort?: string;
  /** True if the request turns thinking on. */
  readonly isOn: boolean;
}

/** Budgets by effort, for models without adaptive thinking. Google documents the same ones for Gemini 2.5. */
const BUDGETS: Readonly<Record<string, number>> = {
  minimal: 1_024,
  low: 1_024,
  medium: 8_192,
  high: 24_576,
  xhigh: 32_000,
  max: 32_000,
};
const DEFAULT_BUDGET = 8_192;
/** Smallest budget that the API accepts. */
const MIN_BUDGET = 1_024;

/**
 * Returns the thinking of a request. A forced tool call and thinking exclude each other in `budget` mode, and according
 * to several reports in `adaptive` mode, so a request with both is sent without `thinking`; the effort remains.
 *
 * @param maxTokens `max_tokens` of the request, which includes the thinking
 * @param lacksThinking true if the tool calls that are being answered have lost their thinking blocks. The API refuses
 *   such a request in `budget` mode ("a final assistant message must start with a thinking block",
 *   anomalyco/opencode#3077); in `adaptive` mode it does not check.
 */
export function thinkingOf(
  { options, toolChoice }: ChatRequest,
  model: ClaudeModel,
  maxTokens: number,
  lacksThinking: boolean,
): Thinking {
  const reasoning = reasoningOf(options);
  if (reasoning === undefined || model.thinking === 'unsupported') return { isOn: false };
  if (!reasoning.isEnabled) return withoutThinking(model);
  const isForced = toolChoice === 'required' || typeof toolChoice === 'object';
  if (model.thinking === 'adaptive') {
    const effort = effortOf(reasoning, model);
    return {
      // Since Opus 4.7, the text of the thinking is omitted by default.
      ...(!isForced && { config: { type: 'adaptive', display: 'summarized' } }),
      ...(effort !== undefined && { effort }),
      isOn: !isForced,
    };
  }
  // The budget must be smaller than `max_tokens`, which would leave no room for both below 2,048.
  if (isForced || lacksThinking || maxTokens < 2 * MIN_BUDGET) return { isOn: false };
  const wanted = reasoning.budgetTokens ?? BUDGETS[reasoning.effort ?? ''] ?? DEFAULT_BUDGET;
  const budget = Math.max(MIN_BUDGET, Math.min(wanted, maxTokens - MIN_BUDGET));
  return { config: { type: 'enabled', budget_tokens: budget }, isOn: true };
}

/** Models that always think get the lowest effort. `between_tools` has no thinking before the answer (Sonnet 5.5). */
function withoutThinking({ disableThinking }: ClaudeModel): Thinking {
  if (disableThinking === 'omit') return { isOn: false };
  if (disableThinking === 'low_effort') return { effort: 'low', isOn: false };
  return { config: { type: disableThinking }, isOn: false };
}

/** Returns the effort of an adaptive model. A budget becomes the effort that has about this budget in older models. */
function effortOf({ effort, budgetTokens }: Reasoning, { hasXhighEffort }: ClaudeModel): string | undefined {
  if (effort === undefined) {
    if (budgetTokens === undefined) return undefined;
    return budgetTokens <= 4_096 ? 'low' : budgetTokens <= 16_384 ? 'medium' : 'high';
  }
  if (effort === 'minimal') return 'low';
  if (effort === 'xhigh') return hasXhighEffort ? 'xhigh' : 'high';
  // An unknown word would be refused; the default of the model is used instead.
  return ['low', 'medium', 'high', 'max'].includes(effort) ? effort : undefined;
}
