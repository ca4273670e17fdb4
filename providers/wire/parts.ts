import type { ContentPart, ToolCallPart } from '../types.ts';

/**
 * Kind of a value that a provider sent in another form than its API describes. `content`, `tool_name`: a value that cannot be read
 * and was left out. `content_type`: a number, a boolean or an object that was converted to text.
 */
export type Anomaly = 'content' | 'content_type' | 'tool_name';

/** Kinds of text. A refusal is text that is marked. */
export type TextKind = 'text' | 'reasoning' | 'refusal';

/** Collects decoded parts and merges adjacent text of one type. */
export interface PartBuffer {
  text(type: TextKind, text: string): void;
  toolCall(part: ToolCallPart): void;
  /** Reports that the model is thinking, until the next content. */
  thinking(): void;
  /** Returns true if `thinking` was called after the last content and since the last call of this function. */
  takeThinking(): boolean;
  /** Counts something that the API does not describe and that was converted or left out. */
  anomaly(kind: Anomaly): void;
  /** True if any text, reasoning or tool call was added. */
  readonly hasContent: boolean;
  /** Returns the parts since the last call, in order. Holds back a high surrogate at the end of the text. */
  take(): ContentPart[];
  /** Returns the parts like `take`, and also what was held back. Call once, at the end. */
  flush(): ContentPart[];
}

/**
 * Creates a part buffer. The text of one upstream read becomes one part: one promise and one socket write per
 * read instead of per token.
 *
 * Some models send the two UTF-16 surrogates of an emoji in two events. A high surrogate at the end of the text, or of
 * the arguments of a tool call, is held back until the low surrogate arrives, because every reader except JavaScript
 * turns a lone surrogate into U+FFFD or refuses it.
 */
export function createPartBuffer(onAnomaly: (kind: Anomaly) => void = () => {}): PartBuffer {
  let parts: ContentPart[] = [];
  let hasContent = false;
  let type: TextKind = 'text';
  let pending = '';
  let isThinking = false;
  /** High surrogates at the end of the arguments of a tool call, by its index. */
  let heldArguments: Map<number, string> | undefined;

  /** Returns the part with what was held back of its arguments, and without a high surrogate at their end. */
  const joinArguments = (part: ToolCallPart): ToolCallPart | undefined => {
    const held = heldArguments?.get(part.index) ?? '';
    const endsInside = endsWithHighSurrogate(part.arguments || held);
    if (held === '' && !endsInside) return part;
    let text = held + part.arguments;
    heldArguments ??= new Map();
    heldArguments.delete(part.index);
    if (endsInside) {
      heldArguments.set(part.index, text.slice(-1));
      text = text.slice(0, -1);
    }
    return text === '' && part.name === undefined && part.id === undefined ? undefined : { ...part, arguments: text };
  };

  const flushPending = () => {
    if (pending !== '') {
      parts.push(type === 'refusal' ? { type: 'text', text: pending, isRefusal: true } : { type, text: pending });
    }
    pending = '';
  };

  const take = () => {
    const heldBack = endsWithHighSurrogate(pending) ? pending.slice(-1) : '';
    if (heldBack !== '') pending = pending.slice(0, -1);
    flushPending();
    pending = heldBack;
    const taken = parts;
    parts = [];
    return taken;
  };

  return {
    anomaly: onAnomaly,
    get hasContent() {
      return hasContent;
    },
    thinking() {
      isThinking = true;
    },
    takeThinking() {
      const wasThinking = isThinking;
      isThinking = false;
      return wasThinking;
    },
    text(kind, text) {
      hasContent = true;
      isThinking = false;
      if (kind !== type) {
        flushPending();
        type = kind;
      }
      pending += text;
    },
    toolCall(part) {
      hasContent = true;
      isThinking = false;
      flushPending();
      const joined = joinArguments(part);
      if (joined !== undefined) parts.push(joined);
    },
    take,
    flush() {
      flushPending();
      for (const [index, text] of heldArguments ?? []) parts.push({ type: 'tool_call', index, arguments: text });
      heldArguments = undefined;
      return take();
    },
  };
}

function endsWithHighSurrogate(text: string): boolean {
  return text !== '' && (text.charCodeAt(text.length - 1) & 0xfc00) === 0xd800;
}
