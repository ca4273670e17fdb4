import type { LongTextEvent } from './api.ts';
import { escapeLineSeparators } from './bytes.ts';

/** Serializes an event with a long text piece by piece. The pieces together are the event as a whole. */
export function* longTextPieces({ id, before, text, after }: LongTextEvent, maxUnits: number): Generator<string> {
  yield escapeLineSeparators(`data: ${before}"`);
  for (let from = 0; from < text.length; ) {
    const end = pieceEnd(text, from + Math.max(1, maxUnits));
    yield escapeLineSeparators(JSON.stringify(text.slice(from, end)).slice(1, -1));
    from = end;
  }
  yield escapeLineSeparators(`"${after}\nid: ${id}\n\n`);
}

/** Returns `end`, or one more to keep a surrogate pair whole: JSON escapes a half. */
function pieceEnd(text: string, end: number): number {
  if (end >= text.length) return text.length;
  const isSplit = (text.charCodeAt(end - 1) & 0xfc00) === 0xd800 && (text.charCodeAt(end) & 0xfc00) === 0xdc00;
  return isSplit ? end + 1 : end;
}
