import type { Clock } from '../clock.ts';

/** Bounds the lines of one event, so that nobody can flood the log. */
export interface LineLimit {
  /** Returns true if a line about this source may be written. */
  pass(source: string): boolean;
  /** Reports the suppressed lines of the current minute, and cancels its timer. */
  close(): void;
}

export interface LineLimitOptions {
  readonly clock: Clock;
  /** Lines per minute about one source. */
  readonly perSource: number;
  /** Lines per minute about all sources. */
  readonly total: number;
  /** Called after a minute in which lines were suppressed. Must not throw. */
  onSuppressed(count: number): void;
}

const MINUTE_MS = 60_000;

/**
 * A minute begins with its first line. Holds at most `total` sources: those that have a line in this minute. A timer runs
 * only while there are suppressed lines to report.
 */
export function createLineLimit({ clock, perSource, total, onSuppressed }: LineLimitOptions): LineLimit {
  const lines = new Map<string, number>();
  let endsAt = Number.NEGATIVE_INFINITY;
  let written = 0;
  let suppressed = 0;
  let cancelTimer: (() => void) | undefined;

  const report = () => {
    const count = suppressed;
    suppressed = 0;
    cancelTimer?.();
    cancelTimer = undefined;
    if (count > 0) onSuppressed(count);
  };

  return {
    pass(source) {
      const now = clock.now();
      if (now >= endsAt) {
        report();
        lines.clear();
        written = 0;
        endsAt = now + MINUTE_MS;
      }
      const ofSource = lines.get(source) ?? 0;
      if (ofSource >= perSource || written >= total) {
        suppressed += 1;
        cancelTimer ??= clock.after(endsAt - now, report);
        return false;
      }
      lines.set(source, ofSource + 1);
      written += 1;
      return true;
    },
    close: report,
  };
}
