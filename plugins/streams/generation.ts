import type { AnswerPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { PartSink } from '../llm/attempt.ts';
import { createLifetime } from './lifetime.ts';
import { ABANDONED, endTerminal, errorTerminal, LIMIT_EXCEEDED, PRODUCER_LOST, STOPPED } from './terminals.ts';
import type { Terminal, WritableLog } from './types.ts';

export interface GenerationOptions {
  readonly log: WritableLog;
  readonly clock: Clock;
  /** Longest answer, in units of the log. */
  readonly maxLength: number;
  /** Asks the model: one call, or several after a retry, fallback or continuation. Stops when the signal aborts. */
  generate(sink: PartSink, signal: AbortSignal): void;
  /** Called once, before the log ends, with the fault itself if there was one. */
  onEnd(terminal: Terminal, fault?: unknown): void;
}

export interface Generation {
  /** Ends the generation now: aborts the upstream call and ends the log with `terminal`. */
  abort(terminal: Terminal): void;
}

/** Writes one answer into its log, no faster than the log accepts it, as long as it may have readers. */
export function runGeneration({ log, clock, maxLength, generate, onEnd }: GenerationOptions): Generation {
  const controller = new AbortController();
  let hasEnded = false;

  const lifetime = createLifetime(log.info.graceMs, clock, () => abort(ABANDONED));
  log.subscribe({
    onReaders: lifetime.onReaders,
    onStop: () => abort(STOPPED),
    onTakenOver: () => abort(PRODUCER_LOST),
  });
  const onFault = (fault: unknown) => end(errorTerminal(fault), fault);
  try {
    generate({ onPart, onFault }, controller.signal);
  } catch (fault) {
    onFault(fault);
  }

  function onPart(part: AnswerPart): Promise<void> | undefined {
    if (part.type === 'finish') {
      end(endTerminal(part));
      return undefined;
    }
    const drained = log.append(part);
    if (log.length > maxLength) abort(LIMIT_EXCEEDED);
    return drained;
  }

  function end(terminal: Terminal, fault?: unknown): void {
    if (hasEnded) return;
    hasEnded = true;
    lifetime.cancel();
    // First what the answer has used: with the end in Redis, no other replica counts it if this process is killed.
    try {
      onEnd(terminal, fault);
    } finally {
      log.end(terminal);
    }
  }

  function abort(terminal: Terminal): void {
    end(terminal);
    controller.abort();
  }

  return { abort };
}
