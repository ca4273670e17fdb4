import type { ContentPart } from '../../providers/types.ts';
import type { StreamInfo, Terminal } from './types.ts';

/** The interface between the store of logs and what keeps answers beyond their logs. */

/** Tells others that an answer has ended. */
export interface Announcement {
  readonly text: string;
  /** Milliseconds for which it is kept. */
  readonly ttlMs: number;
}

/** An answer that has ended in this process. */
export interface EndedAnswer {
  readonly parts: readonly ContentPart[];
  readonly terminal: Terminal;
}

/** Keeps the answers of stored streams beyond their logs, and announces the end of those in the background. */
export interface AnswerArchive {
  /** Milliseconds for which an answer is kept after its end. */
  readonly ttlMs: number;
  /** Called when a stored stream was created, before its answer begins. Never throws. */
  onCreated(info: StreamInfo): void;
  /**
   * Keeps an answer in this process, and announces it. The store in memory calls it once, when the log ends. That in Redis
   * keeps the log itself, and does not call it. Never throws.
   */
  keep(info: StreamInfo, parts: readonly ContentPart[], terminal: Terminal): void;
  /** Returns what a store in Redis writes together with the end of the log; undefined if the end is not announced. */
  announce(info: StreamInfo, terminal: Terminal): Announcement | undefined;
  /** Called when an announcement is in Redis. Never throws. */
  onAnnounced(info: StreamInfo): void;
  /** Called by a store in Redis, once, with a function that returns an answer whose end is not in Redis yet. */
  setUnwritten(find: (id: string) => EndedAnswer | undefined): void;
  /** Called when this process has taken over the log of a stored stream. Never throws. */
  onTakenOver(info: StreamInfo): void;
  /** Called when the log of a stored stream was compared with Redis, which may have lost more than the log. Never throws. */
  onCompared(info: StreamInfo): void;
  /** Called when this process no longer writes the log of a stored stream. Never throws. */
  onReleased(info: StreamInfo): void;
}
