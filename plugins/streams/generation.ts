import { ProviderError } from '../../providers/errors.ts';
import type { FinishPart, StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { PartSink } from '../llm/attempt.ts';
import { createLifetime } from './lifetime.ts';
import type { StreamLog, Terminal } from './types.ts';

export interface GenerationOptions {
  readonly log: StreamLog;
  readonly clock: Clock;
  /** Longest answer, in units of the log. */
  readonly maxLength: number;
  /** Asks the model once; ends the call when the signal aborts. */
  generate(sink: PartSink, signal: AbortSignal): void;
  onFirstPart(): void;
  /** Called once, with the fault itself where there was one. */
  onEnd(terminal: Terminal, fault?: unknown): void;
}

export interface Generation {
  /** Ends it now: the upstream call is aborted, and readers get `terminal`. */
  abort(terminal: Terminal): void;
}

/** Writes one answer into its log, no faster than the log takes it, for as long as somebody may want it. */
export function runGeneration(options: GenerationOptions): Generation {
  const { log, maxLength } = options;
  const controller = new AbortController();
  let isOver = false;
  let first = true;

  const lifetime = createLifetime(log.info.graceMs, options.clock, () => abort(ABANDONED));
  log.subscribe({ onReaders: lifetime.onReaders, onStop: () => abort(STOPPED), onLost: () => abort(STREAM_LOST) });
  const onFault = (fault: unknown) => end(errorTerminal(fault), fault);
  try {
    options.generate({ onPart, onFault }, controller.signal);
  } catch (fault) {
    onFault(fault);
  }

  function onPart(part: StreamPart): Promise<void> | undefined {
    if (first) options.onFirstPart();
    first = false;
    if (part.type === 'finish') {
      end(endTerminal(part));
      return undefined;
    }
    const room = log.append(part);
    if (log.length > maxLength) abort(LIMIT_EXCEEDED);
    return room;
  }

  function end(terminal: Terminal, fault?: unknown): void {
    if (isOver) return;
    isOver = true;
    lifetime.cancel();
    log.end(terminal);
    options.onEnd(terminal, fault);
  }

  function abort(terminal: Terminal): void {
    end(terminal);
    controller.abort();
  }

  return { abort };
}

const STOPPED: Terminal = { type: 'end', finishReason: 'stopped' };

/** The log goes on, or has ended, with another producer. */
const STREAM_LOST: Terminal = {
  type: 'error',
  code: 'stream_lost',
  message: 'The replica that produced the answer is gone.',
  status: 502,
  retryable: true,
};

const ABANDONED: Terminal = {
  type: 'error',
  code: 'abandoned',
  message: 'Nobody was reading any more.',
  status: 404,
  retryable: true,
};

const LIMIT_EXCEEDED: Terminal = {
  type: 'error',
  code: 'limit_exceeded',
  message: 'The answer is longer than this service allows.',
  status: 502,
  retryable: false,
};

function endTerminal({ reason, usage, targets }: FinishPart): Terminal {
  return { type: 'end', finishReason: reason, usage, targets };
}

function errorTerminal(fault: unknown): Terminal {
  if (!(fault instanceof ProviderError)) {
    return { type: 'error', code: 'internal', message: 'Something went wrong here.', status: 500, retryable: false };
  }
  const { code, message, status, retryable, retryAfterMs, stage } = fault;
  return { type: 'error', code, message, status, retryable, retryAfterMs, stage };
}
