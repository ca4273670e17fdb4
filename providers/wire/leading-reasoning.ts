import type { PartBuffer } from './parts.ts';

/**
 * Separates reasoning that a provider sends inside the text, before the answer. Text is held back only as long as
 * it may be such reasoning: an answer that begins with anything else passes at once.
 */

/** Longest blank text before a tag. */
const MAX_BLANK_CHARS = 256;
/** Longest fence, with the line breaks around it. */
const MAX_FENCE_CHARS = 64;

/** A part buffer whose text may be held back. Call `end` after the last event. */
export type HoldingBuffer = PartBuffer & { end(): void };

/**
 * Creates a buffer for text with `<reasoning>…</reasoning>` before the answer, once or several times: gpt-oss in the
 * Chat Completions API of Bedrock (cherry-studio#10225).
 */
export function splitReasoningTags(parts: PartBuffer): HoldingBuffer {
  const OPEN = '<reasoning>';
  const CLOSE = '</reasoning>';
  let isInside = false;

  return holdText(parts, (held) => {
    for (;;) {
      if (!isInside) {
        const begin = held.trimStart();
        const mayBegin = begin.length < OPEN.length && OPEN.startsWith(begin);
        if (mayBegin && held.length < MAX_BLANK_CHARS) return { text: '', rest: held };
        if (!begin.startsWith(OPEN)) return { text: held, rest: undefined };
        isInside = true;
        held = begin.slice(OPEN.length);
      }
      const close = held.indexOf(CLOSE);
      if (close < 0) {
        const kept = partialSuffix(held, CLOSE);
        if (held.length > kept) parts.text('reasoning', held.slice(0, held.length - kept));
        return { text: '', rest: held.slice(held.length - kept) };
      }
      if (close > 0) parts.text('reasoning', held.slice(0, close));
      held = held.slice(close + CLOSE.length);
      isInside = false;
    }
  });
}

/**
 * Creates a buffer for channels of Bella with `mergeReasoningContent`: they repeat the reasoning as text, in a fenced
 * block before the answer. The block is left out if it is exactly the reasoning; otherwise nothing is left out.
 */
export function dropRepeatedReasoning(parts: PartBuffer): HoldingBuffer {
  const OPEN = /^\n*```[a-z]*\n/;
  const OPEN_BEGIN = /^\n*(`{0,3}|```[a-z]*)$/;
  // The line break behind the closing fence tells that the fence is complete.
  const CLOSE = /^\n*```\n+/;
  const CLOSE_BEGIN = /^\n*`{0,3}$/;
  let state: 'before' | 'inside' | 'text' = 'before';
  let hasReasoning = false;
  /** Reasoning that the block has not repeated yet. Only the new text is compared, not the whole block again. */
  let unrepeated = '';
  /** Text of the block behind the reasoning so far. */
  let excess = '';

  const asText = (text: string) => {
    state = 'text';
    return { text, rest: undefined };
  };

  const buffer = holdText(parts, (held, added) => {
    if (state === 'before') {
      const open = OPEN.exec(held)?.[0];
      if (open === undefined) {
        return held.length < MAX_FENCE_CHARS && OPEN_BEGIN.test(held) ? { text: '', rest: held } : asText(held);
      }
      state = 'inside';
      added = held.slice(open.length);
    }
    excess += added;
    const length = Math.min(excess.length, unrepeated.length);
    if (excess.slice(0, length) !== unrepeated.slice(0, length)) return asText(held);
    excess = excess.slice(length);
    unrepeated = unrepeated.slice(length);
    if (excess === '') return { text: '', rest: held };
    if (excess.length < MAX_FENCE_CHARS && CLOSE_BEGIN.test(excess)) return { text: '', rest: held };
    return asText(hasReasoning && CLOSE.test(excess) ? excess.replace(CLOSE, '') : held);
  });
  return {
    ...buffer,
    get hasContent() {
      return buffer.hasContent;
    },
    text(kind, text) {
      if (kind === 'reasoning' && state !== 'text') {
        hasReasoning = true;
        unrepeated += text;
      }
      buffer.text(kind, text);
    },
  };
}

/**
 * Returns a buffer that passes text through `next`, which returns the text to add now and the rest to hold back, or
 * undefined if all later text passes. `held` is all text that is held back; `added` is the end of it that is new.
 */
function holdText(
  parts: PartBuffer,
  next: (held: string, added: string) => { text: string; rest: string | undefined },
): HoldingBuffer {
  let held: string | undefined = '';
  const release = () => {
    if (held !== '' && held !== undefined) parts.text('text', held);
    if (held !== undefined) held = '';
  };
  return {
    take: parts.take,
    flush: parts.flush,
    anomaly: parts.anomaly,
    thinking: parts.thinking,
    takeThinking: parts.takeThinking,
    get hasContent() {
      return parts.hasContent;
    },
    text(kind, text) {
      if (kind === 'reasoning' || held === undefined) {
        parts.text(kind, text);
        return;
      }
      if (kind === 'refusal') {
        release();
        parts.text(kind, text);
        return;
      }
      const result = next(held + text, text);
      held = result.rest;
      if (result.text !== '') parts.text('text', result.text);
    },
    toolCall(part) {
      release();
      parts.toolCall(part);
    },
    end: release,
  };
}

/** Returns the length of the end of `text` that may be the beginning of `word`. */
function partialSuffix(text: string, word: string): number {
  for (let length = Math.min(text.length, word.length - 1); length > 0; length--) {
    if (word.startsWith(text.slice(text.length - length))) return length;
  }
  return 0;
}
