/** Reads how a request asks for reasoning. Clients use the options of several APIs for it. */

export interface Reasoning {
  /** False if the request asks for an answer without reasoning. */
  readonly isEnabled: boolean;
  /** `minimal`, `low`, `medium`, `high`, `xhigh`, `max` and others; undefined if the request does not say. */
  readonly effort?: string;
  /** Most tokens of the reasoning. */
  readonly budgetTokens?: number;
}

/**
 * Returns what the options say about reasoning; undefined if they say nothing. Understands `reasoning_effort`,
 * OpenRouter's and OpenAI's `reasoning`, Anthropic's `thinking`, and Qwen's `enable_thinking`.
 */
export function reasoningOf(options: Readonly<Record<string, unknown>> = {}): Reasoning | undefined {
  const { reasoning_effort: effort, enable_thinking: isThinkingEnabled } = options;
  if (typeof effort === 'string') return withEffort(effort);
  const { effort: nestedEffort, enabled, max_tokens: maxTokens } = fieldsOf(options.reasoning);
  if (typeof nestedEffort === 'string') return withEffort(nestedEffort);
  if (typeof maxTokens === 'number') return { isEnabled: maxTokens > 0, budgetTokens: maxTokens };
  if (typeof enabled === 'boolean') return { isEnabled: enabled };
  const { type, budget_tokens: budgetTokens } = fieldsOf(options.thinking);
  if (type === 'disabled') return { isEnabled: false };
  if (type !== undefined) return { isEnabled: true, ...(typeof budgetTokens === 'number' && { budgetTokens }) };
  return typeof isThinkingEnabled === 'boolean' ? { isEnabled: isThinkingEnabled } : undefined;
}

function withEffort(effort: string): Reasoning {
  return effort === 'none' ? { isEnabled: false } : { isEnabled: true, effort };
}

function fieldsOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}
