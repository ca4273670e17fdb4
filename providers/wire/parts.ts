import type { ContentPart, ToolCallPart } from '../types.ts';

export interface PartBuffer {
  text(type: 'text' | 'reasoning', text: string): void;
  toolCall(part: ToolCallPart): void;
  /** All parts since the last call, in order, adjacent text of one kind merged. */
  take(): ContentPart[];
  /** As `take`, and also what was held back for its other half. Call once, at the end. */
  flush(): ContentPart[];
}

/**
 * Collects what one read of the upstream brought, so that it goes on as one part: a promise and a
 * socket write per read instead of per token.
 *
 * Models are known to send an emoji's two UTF-16 halves in two events. A first half at the end of a
 * text is held back for the second, because a lone one turns into U+FFFD in any reader that is not
 * JavaScript.
 */
export function createPartBuffer(): PartBuffer {
  let parts: ContentPart[] = [];
  let type: 'text' | 'reasoning' = 'text';
  let pending = '';

  const release = () => {
    if (pending !== '') parts.push({ type, text: pending });
    pending = '';
  };

  const take = () => {
    const half = endsWithHighSurrogate(pending) ? pending.slice(-1) : '';
    if (half !== '') pending = pending.slice(0, -1);
    release();
    pending = half;
    const taken = parts;
    parts = [];
    return taken;
  };

  return {
    text(kind, text) {
      if (kind !== type) {
        release();
        type = kind;
      }
      pending += text;
    },
    toolCall(part) {
      release();
      parts.push(part);
    },
    take,
    flush() {
      release();
      return take();
    },
  };
}

function endsWithHighSurrogate(text: string): boolean {
  return text !== '' && (text.charCodeAt(text.length - 1) & 0xfc00) === 0xd800;
}
