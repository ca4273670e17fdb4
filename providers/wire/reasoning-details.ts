import type { AnswerState, ReasoningDetail } from '../types.ts';

/** Collects what a provider wants back with the tool calls of an answer. */
export interface StateCollector {
  /** Adds a block of reasoning before tool call number `before`. */
  addDetail(detail: ReasoningDetail): void;
  /** Adds a fragment of a block, which belongs to the block of the same type and index. */
  addFragment(fragment: unknown): void;
  /** Adds the `extra_content` of tool call number `call`. */
  addExtraContent(call: number, content: unknown): void;
  /** Returns the state; undefined if there is nothing. */
  state(): AnswerState | undefined;
}

/** Fields of fragments that are concatenated. Others are replaced. */
const TEXT_FIELDS = ['text', 'summary', 'data'] as const;

export function createStateCollector(): StateCollector {
  const details: ReasoningDetail[] = [];
  const extraContent: Record<string, Record<string, unknown>> = {};

  return {
    addDetail(detail) {
      details.push(detail);
    },
    addFragment(fragment) {
      if (!isRecord(fragment) || typeof fragment.type !== 'string') return;
      const last = details.findLastIndex(({ type, index }) => type === fragment.type && index === fragment.index);
      const known = details[last];
      // Without an index, a block that has its signature is complete.
      const isOver = known?.index === undefined && known?.signature !== undefined;
      if (known === undefined || isOver) details.push(fragment as ReasoningDetail);
      else details[last] = merge(known, fragment);
    },
    addExtraContent(call, content) {
      if (isRecord(content)) extraContent[call] = { ...extraContent[call], ...content };
    },
    state() {
      const hasExtraContent = Object.keys(extraContent).length > 0;
      if (details.length === 0 && !hasExtraContent) return undefined;
      return { ...(details.length > 0 && { details }), ...(hasExtraContent && { extraContent }) };
    },
  };
}

function merge(known: ReasoningDetail, fragment: Record<string, unknown>): ReasoningDetail {
  const merged: Record<string, unknown> = { ...known };
  for (const [name, value] of Object.entries(fragment)) {
    if (value === null || value === undefined) continue;
    const isText = (TEXT_FIELDS as readonly string[]).includes(name);
    merged[name] = isText && typeof merged[name] === 'string' ? `${merged[name]}${value}` : value;
  }
  return merged as ReasoningDetail;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
