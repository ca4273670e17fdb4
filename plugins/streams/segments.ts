import type { ContentPart } from '../../providers/types.ts';
import { partSize } from './types.ts';

/** The parts of one answer, merged, readable from any position. */
export interface Segments {
  readonly length: number;
  append(part: ContentPart): void;
  /** Parts from `from` on, merged, at most about `limit` units; `from` must not be past the length. */
  slice(from: number, limit: number): ContentPart[];
  /** All text, without reasoning and tool calls. */
  text(): string;
  /** Call when nothing more will come: whatever can be merged becomes one flat string. */
  seal(): void;
}

/** How many pieces of text are joined at a time. */
const JOIN = 64;

/**
 * Text is kept as flat strings of some 64 tokens, and as one string a run once it is sealed.
 * `answer += token` would keep every token and every partial sum alive (measured on Node: ten times
 * the text); a flat string costs one or two bytes a character, never more than twice its UTF-8.
 */
export function createSegments(): Segments {
  let sealed: ContentPart[] = [];
  let starts: number[] = [];
  let sealedLength = 0;
  let pieces: string[] = [];
  let piecesLength = 0;
  let kind: 'text' | 'reasoning' = 'text';

  const push = (part: ContentPart) => {
    sealed.push(part);
    starts.push(sealedLength);
    sealedLength += partSize(part);
  };

  const join = () => {
    if (pieces.length > 0) push({ type: kind, text: pieces.join('') });
    pieces = [];
    piecesLength = 0;
  };

  /** The last segment that starts at or before `position`. */
  const find = (position: number) => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((starts[middle] as number) <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  };

  /** The open text from `offset` on. A reader that keeps up wants the last piece or two of it. */
  const openFrom = (offset: number): ContentPart => {
    let first = pieces.length;
    let start = piecesLength;
    while (start > offset) start -= (pieces[--first] as string).length;
    const text = first === pieces.length - 1 ? (pieces[first] as string) : pieces.slice(first).join('');
    return { type: kind, text: start === offset ? text : text.slice(offset - start) };
  };

  return {
    get length() {
      return sealedLength + piecesLength;
    },
    append(part) {
      if (part.type === 'tool_call') {
        join();
        push(part);
        return;
      }
      if (part.type !== kind) join();
      kind = part.type;
      pieces.push(part.text);
      piecesLength += part.text.length;
      if (pieces.length >= JOIN) join();
    },
    slice(from, limit) {
      const out: ContentPart[] = [];
      let room = limit;
      for (let i = find(from); from < sealedLength && i < sealed.length && room > 0; i++) {
        const part = cut(sealed[i] as ContentPart, Math.max(0, from - (starts[i] as number)), room);
        if (part === undefined) continue;
        room -= partSize(part);
        mergeInto(out, part);
      }
      const tail = room > 0 ? cut(openFrom(Math.max(0, from - sealedLength)), 0, room) : undefined;
      if (tail !== undefined) mergeInto(out, tail);
      return out;
    },
    text() {
      join();
      return sealed.map((part) => (part.type === 'text' ? part.text : '')).join('');
    },
    seal() {
      join();
      const runs: ContentPart[][] = [];
      for (const part of sealed) {
        const run = runs.at(-1);
        if (run?.[0]?.type === part.type && part.type !== 'tool_call') run.push(part);
        else runs.push([part]);
      }
      sealed = [];
      starts = [];
      sealedLength = 0;
      for (const run of runs) push(joinRun(run));
    },
  };
}

/** `part` from `offset` on, at most `room` units, not between the halves of a surrogate pair. */
function cut(part: ContentPart, offset: number, room: number): ContentPart | undefined {
  if (part.type === 'tool_call') return offset > 0 ? undefined : part;
  let end = Math.min(part.text.length, offset + room);
  if (end < part.text.length && (part.text.charCodeAt(end) & 0xfc00) === 0xdc00) end += 1;
  if (offset >= end) return undefined;
  return offset === 0 && end === part.text.length ? part : { type: part.type, text: part.text.slice(offset, end) };
}

function mergeInto(out: ContentPart[], part: ContentPart): void {
  const last = out.at(-1);
  if (last !== undefined && last.type !== 'tool_call' && last.type === part.type) {
    out[out.length - 1] = { type: last.type, text: last.text + (part as { text: string }).text };
  } else out.push(part);
}

function joinRun(run: readonly ContentPart[]): ContentPart {
  const first = run[0] as ContentPart;
  if (first.type === 'tool_call') return first;
  return { type: first.type, text: run.map((part) => (part as { text: string }).text).join('') };
}
