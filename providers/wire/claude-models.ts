import type { ChatRequest, FileContent } from '../types.ts';
import { jsonFormatOf } from './response-format.ts';

/**
 * The differences between Claude models. Unknown and newer names get the rules of the newest models, so that a new
 * model works without a release of Sluice. Sources, read on 2026-11-26: https://platform.claude.com/docs/en/models
 * with the overview and migration guide of each model, and its pages on thinking, effort and structured outputs.
 */

/** Number of `temperature` and `top_p` that a model accepts together. `none` also excludes `top_k`. */
export type Sampling = 'both' | 'one' | 'none';

export interface ClaudeModel {
  readonly sampling: Sampling;
  /** Maximum length of an answer, thinking included. */
  readonly maxOutputTokens: number;
  /** `budget`: up to `budget_tokens`. `adaptive`: as much as the model decides, guided by `effort`. */
  readonly thinking: 'unsupported' | 'budget' | 'adaptive';
  /**
   * Way to ask for an answer without thinking. `omit`: the model thinks only on request. `low_effort`: it always thinks.
   */
  readonly disableThinking: 'omit' | 'disabled' | 'between_tools' | 'low_effort';
  /** True if `effort` may be `xhigh`. `max` is accepted by all models with adaptive thinking. */
  readonly hasXhighEffort: boolean;
  readonly hasStructuredOutput: boolean;
  /** True if `tool_choice` may force a tool call. */
  readonly canForceTools: boolean;
}

/** Family and version of a model name; the version is undefined in names such as `claude-mythos-preview`. */
interface ModelName {
  readonly family: string;
  /** Major version times 100 plus minor version: 405 is 4.5. */
  readonly version: number | undefined;
}

/** Version of names without one: newer than every other. */
const NEWEST = 9_900;

/** Returns the rules of a model. */
export function claudeModel(model: string): ClaudeModel {
  const { family, version = NEWEST } = parseName(model);
  const isOpus = family === 'opus';
  return {
    sampling: samplingOf(isOpus, version),
    maxOutputTokens: maxOutputTokensOf(isOpus, version),
    thinking: version < 307 ? 'unsupported' : version < 406 ? 'budget' : 'adaptive',
    disableThinking: disableThinkingOf(family, version),
    hasXhighEffort: version >= 407,
    // General availability begins with 4.5. Opus 4.1 had structured outputs only with a beta header.
    hasStructuredOutput: version >= 405,
    canForceTools: canForceTools(family, version),
  };
}

/** Returns true if both names are of one model, such as an alias and its dated name. */
export function isSameClaudeModel(a: string, b: string): boolean {
  const [first, second] = [parseName(a), parseName(b)];
  if (first.version === undefined || second.version === undefined) return a === b;
  return first.family === second.family && first.version === second.version;
}

/**
 * Reads names such as `claude-opus-4-8`, `claude-sonnet-4-5-20250929`, `claude-3-5-sonnet-latest`,
 * `claude-sonnet-4@20250514` and `eu.anthropic.claude-haiku-4.5-v1:0`. A number with more than two digits is a date.
 */
function parseName(model: string): ModelName {
  const familyFirst = /claude-([a-z]{2,})(?:-(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?)?/.exec(model);
  if (familyFirst) return { family: familyFirst[1] ?? '', version: versionOf(familyFirst[2], familyFirst[3]) };
  const versionFirst = /claude-v?(\d)(?!\d)(?:[-.](\d{1,2})(?!\d))?(?:-([a-z]+))?/.exec(model);
  return { family: versionFirst?.[3] ?? '', version: versionOf(versionFirst?.[1], versionFirst?.[2]) };
}

function versionOf(major: string | undefined, minor: string | undefined): number | undefined {
  return major === undefined ? undefined : Number(major) * 100 + Number(minor ?? 0);
}

function samplingOf(isOpus: boolean, version: number): Sampling {
  if (version >= 407) return 'none';
  return version >= (isOpus ? 401 : 405) ? 'one' : 'both';
}

function maxOutputTokensOf(isOpus: boolean, version: number): number {
  if (version < 305) return 4_096;
  if (version < 307) return 8_192;
  if (version >= 406) return 128_000;
  return isOpus && version < 405 ? 32_000 : 64_000;
}

function disableThinkingOf(family: string, version: number): ClaudeModel['disableThinking'] {
  if (version < 500) return 'omit';
  if (family === 'sonnet' && version >= 505 && version < NEWEST) return 'between_tools';
  if (family === 'haiku' && version < 600) return 'disabled';
  if ((family === 'opus' || family === 'sonnet') && version < 505) return 'disabled';
  return 'low_effort';
}

/**
 * Opus 5.5, Sonnet 5.5 and Fable 5.1 refuse forced tool use; Haiku 5.5 does not. A name without a version may be a model
 * of another vendor with Anthropic's API, so nothing is refused for it.
 */
function canForceTools(family: string, version: number): boolean {
  if (version === NEWEST || version < 501) return true;
  return (
    (family === 'haiku' && version < 600) ||
    (family === 'opus' && version < 505) ||
    (family === 'sonnet' && version < 505)
  );
}

/**
 * Returns the name of an option or content that the model cannot express and that would change the answer, in addition
 * to the table of options.
 */
export function unsupportedByClaude({ model, options, toolChoice, messages }: ChatRequest): string | undefined {
  const rules = claudeModel(model);
  const isForced = toolChoice === 'required' || typeof toolChoice === 'object';
  if (isForced && !rules.canForceTools) return 'tool_choice';
  const format = jsonFormatOf(options);
  if (format !== undefined && !(rules.hasStructuredOutput && format.schema)) return 'response_format';
  const hasOtherFile = messages.some(
    ({ role, content }) =>
      role === 'user' &&
      typeof content !== 'string' &&
      content.some((block) => block.type === 'file' && !isDocument(block)),
  );
  return hasOtherFile ? 'messages' : undefined;
}

/**
 * Returns true for files that the API accepts: PDFs, images, and plain text that is part of the request.
 * https://platform.claude.com/docs/en/build-with-claude/files
 */
function isDocument({ mimeType, url }: FileContent): boolean {
  if (mimeType.startsWith('text/')) return url.startsWith('data:');
  return mimeType === 'application/pdf' || mimeType.startsWith('image/');
}
