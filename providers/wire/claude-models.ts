/**
 * Rules of Claude models, by their names. Names that are unknown count as newer models, because the API refuses what
 * they no longer accept. Sources: Anthropic's migration guides for 4.5, 4.6 and 4.7; QuantumNous/new-api#5122,
 * anomalyco/models.dev#1468. As of November 2026.
 */
export interface ClaudeModel {
  /** Number of `temperature` and `top_p` that the model accepts in one request. */
  readonly sampling: 'both' | 'one' | 'none';
  /** Longest answer: the limit of a request that has none, because the API requires one. */
  readonly maxTokens: number;
  /** Form in which thinking is asked for: with a budget, adaptive, or not at all. */
  readonly thinking: 'none' | 'budget' | 'adaptive';
  /** True if the model thinks unless it is told not to. */
  readonly thinksByDefault: boolean;
  /** Efforts that the model knows, besides `low`, `medium` and `high`; undefined if it knows none. */
  readonly efforts: readonly string[] | undefined;
  /** True if answers can follow a JSON schema. */
  readonly hasJsonSchema: boolean;
}

/** Returns the rules of a model, by its name in any spelling: `claude-opus-4-8`, `claude-3-5-haiku-latest`. */
export function claudeModel(name: string): ClaudeModel {
  const version = versionOf(name);
  const isOpus = name.includes('opus');
  const isAtLeast = (major: number, minor: number) => version === undefined || version >= versionNumber(major, minor);
  return {
    sampling: isAtLeast(4, 7) ? 'none' : isAtLeast(4, isOpus ? 1 : 5) ? 'one' : 'both',
    maxTokens: maxTokensOf(isAtLeast, isOpus),
    thinking: isAtLeast(4, 6) ? 'adaptive' : isAtLeast(3, 7) ? 'budget' : 'none',
    thinksByDefault: version !== undefined && isAtLeast(5, 0),
    efforts: isAtLeast(4, 7) ? ['xhigh', 'max'] : isAtLeast(4, 6) ? ['max'] : undefined,
    hasJsonSchema: isAtLeast(4, isOpus ? 1 : 5),
  };
}

function versionNumber(major: number, minor: number): number {
  return 100 * major + minor;
}

/** Returns the version in `claude-sonnet-4-5-20250929` or `claude-3-5-haiku`; undefined if there is none. */
function versionOf(name: string): number | undefined {
  // A longer number is a date.
  const [, major, minor = 0] = /claude-(?:[a-z]+-)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?/.exec(name) ?? [];
  return major === undefined ? undefined : versionNumber(Number(major), Number(minor));
}

function maxTokensOf(isAtLeast: (major: number, minor: number) => boolean, isOpus: boolean): number {
  if (isAtLeast(4, isOpus ? 6 : 7)) return 128_000;
  if (isOpus && isAtLeast(4, 0) && !isAtLeast(4, 5)) return 32_000;
  if (isAtLeast(3, 7)) return 64_000;
  return isAtLeast(3, 5) ? 8_192 : 4_096;
}
