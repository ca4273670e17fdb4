import type { ContentPart, FinishReason, Usage } from '../../providers/types.ts';

/** The end of a log: one of these, once. */
export type Terminal =
  | { readonly type: 'end'; readonly finishReason: FinishReason | 'stopped'; readonly usage?: Usage | undefined }
  | {
      readonly type: 'error';
      readonly code: string;
      readonly message: string;
      readonly retryable: boolean;
      readonly retryAfterMs?: number | undefined;
      readonly stage?: string | undefined;
    };

/** What a reader gets in one go: everything new, adjacent text merged. Never empty. */
export interface Slice {
  /** Position before the first part. */
  readonly from: number;
  readonly parts: readonly ContentPart[];
  readonly terminal?: Terminal;
  /** All text of the answer; with an `end` only. */
  readonly answer?: string;
}

/** One reader's place in a log. */
export interface LogReader {
  /** Waits for news. Nothing follows a slice that has a terminal. One call at a time. */
  next(): Promise<Slice>;
  /** Detaches. Idempotent; a waiting `next` never settles. */
  close(): void;
}

/**
 * How many units a part takes: positions count UTF-16 units of text, and one for any other part, so
 * that every delivered event ends at a place from which reading can go on.
 */
export function partSize(part: ContentPart): number {
  return part.type === 'tool_call' ? 1 : part.text.length;
}
