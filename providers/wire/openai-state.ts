import type { AnswerState, ReasoningDetail } from '../types.ts';
import { isRecord } from './json.ts';
import type { ToolCalls } from './tool-calls.ts';

/** Collects what a provider with Chat Completions wants back with the tool calls of an answer. */

type Fragment = Readonly<Record<string, unknown>>;

/** Fields that arrive in pieces. All others are replaced. */
const TEXT_FIELDS: ReadonlySet<string> = new Set(['text', 'summary', 'data']);

export interface OpenAIState {
  /** Adds the `reasoning_details` of a delta. */
  addDetails(fragments: unknown): void;
  /** Adds `extra_content` outside of the tool calls: Gemini's signature of the first call. */
  addExtraContent(extra: unknown): void;
  /** Returns the state; undefined without tool calls or without anything to send back. */
  finish(toolCalls: ToolCalls): AnswerState | undefined;
}

export function createOpenAIState(): OpenAIState {
  const details: Record<string, unknown>[] = [];
  let ownExtra: Record<string, unknown> | undefined;

  /**
   * Returns the block that a fragment continues: the newest of its type and index, unless the ids differ. Without
   * an index, only text continues the last block.
   */
  const blockOf = ({ type, index, id }: Fragment): Record<string, unknown> | undefined => {
    const block =
      index === undefined || index === null
        ? details.at(-1)
        : details.findLast((known) => known.type === type && known.index === index);
    if (block === undefined || block.type !== type) return undefined;
    if ((index === undefined || index === null) && type === 'reasoning.encrypted') return undefined;
    const isOther = typeof id === 'string' && typeof block.id === 'string' && id !== block.id;
    return isOther ? undefined : block;
  };

  return {
    addDetails(fragments) {
      for (const fragment of fragmentsIn(fragments)) {
        if (typeof fragment.type !== 'string') continue;
        const block = blockOf(fragment);
        if (block === undefined) details.push({ ...fragment });
        else merge(block, fragment);
      }
    },
    addExtraContent(extra) {
      if (isRecord(extra)) ownExtra = { ...ownExtra, ...extra };
    },
    finish(toolCalls) {
      if (toolCalls.count === 0) return undefined;
      return answerState(details as unknown as ReasoningDetail[], toolCalls, ownExtra);
    },
  };
}

/**
 * Returns the state of an answer; undefined without anything to send back.
 * @param extra `extra_content` of the first tool call that came outside of it
 */
export function answerState(
  details: readonly ReasoningDetail[],
  toolCalls: ToolCalls,
  extra?: Readonly<Record<string, unknown>>,
): AnswerState | undefined {
  const ofCalls = toolCalls.extraContent();
  const extraContent = { ...ofCalls, ...(extra && { 0: { ...extra, ...ofCalls[0] } }) };
  const hasExtra = Object.keys(extraContent).length > 0;
  if (details.length === 0 && !hasExtra) return undefined;
  return { ...(details.length > 0 && { details }), ...(hasExtra && { extraContent }) };
}

/** Returns the text of `reasoning_details`, for providers that send it nowhere else. */
export function detailsText(fragments: unknown): string {
  return fragmentsIn(fragments)
    .map(({ type, text, summary }) => (type === 'reasoning.summary' ? summary : text))
    .filter((text) => typeof text === 'string')
    .join('');
}

function merge(block: Record<string, unknown>, fragment: Fragment): void {
  for (const [name, value] of Object.entries(fragment)) {
    if (value === null || value === undefined) continue;
    const known = block[name];
    block[name] = TEXT_FIELDS.has(name) && typeof known === 'string' ? known + value : value;
  }
}

function fragmentsIn(value: unknown): Fragment[] {
  return Array.isArray(value) ? value.filter(isRecord) : [];
}
