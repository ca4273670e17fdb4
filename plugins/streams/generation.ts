import { ProviderError } from '../../providers/errors.ts';
import type { FinishPart, StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import { createLifetime } from './lifetime.ts';
import type { StreamLog, Terminal } from './types.ts';

export interface GenerationOptions {
  readonly log: StreamLog;
  readonly clock: Clock;
  /** Longest answer, in units of the log. */
  readonly maxLength: number;
  ask(signal: AbortSignal): AsyncIterator<StreamPart, void, undefined>;
  /** Called once, with the fault itself where there was one. */
  onEnd(terminal: Terminal, fault?: unknown): void;
  onFirstPart(): void;
}

export interface Generation {
  /** Ends it now: the upstream call is aborted, and readers get `terminal`. */
  abort(terminal: Terminal): void;
}

/**
 * Pumps one upstream call into its log, no faster than the log lets it, for as long as somebody may
 * want it. Written with callbacks and not with `for await`, so that an abort ends it at once even
 * where the provider never settles.
 */
export function startGeneration({ log, clock, maxLength, ask, onEnd, onFirstPart }: GenerationOptions): Generation {
  const controller = new AbortController();
  let over = false;
  let first = true;

  const lifetime = createLifetime(log.info.graceMs, clock, () => abort(ABANDONED));
  log.attend({ onReaders: lifetime.onReaders, onStop: () => abort(STOPPED) });
  const parts = ask(controller.signal);
  pull();

  function pull(): void {
    if (!over) parts.next().then(onResult).catch(onFault);
  }

  function onResult(result: IteratorResult<StreamPart, void>): void {
    if (over) return;
    if (result.done) onFault(new Error('a provider ended without a finish part'));
    else onPart(result.value);
  }

  function onPart(part: StreamPart): void {
    if (first) onFirstPart();
    first = false;
    if (part.type === 'finish') {
      end(success(part));
      return;
    }
    const room = log.append(part);
    if (log.length > maxLength) abort(LIMIT_EXCEEDED);
    else if (room) room.then(pull, onFault);
    else pull();
  }

  function onFault(fault: unknown): void {
    end(failure(fault), fault);
  }

  function end(terminal: Terminal, fault?: unknown): void {
    if (over) return;
    over = true;
    lifetime.over();
    log.end(terminal);
    // Lets a provider give its socket back; one that was aborted has nothing left to say.
    parts.return?.().catch(() => {});
    onEnd(terminal, fault);
  }

  function abort(terminal: Terminal): void {
    if (over) return;
    controller.abort();
    end(terminal);
  }

  return { abort };
}

const STOPPED: Terminal = { type: 'end', finishReason: 'stopped' };

const ABANDONED: Terminal = {
  type: 'error',
  code: 'abandoned',
  message: 'Nobody was reading any more.',
  retryable: true,
};

const LIMIT_EXCEEDED: Terminal = {
  type: 'error',
  code: 'limit_exceeded',
  message: 'The answer is longer than this service allows.',
  retryable: false,
};

function success({ reason, usage }: FinishPart): Terminal {
  return { type: 'end', finishReason: reason, usage };
}

function failure(fault: unknown): Terminal {
  if (!(fault instanceof ProviderError)) {
    return { type: 'error', code: 'internal', message: 'Something went wrong here.', retryable: false };
  }
  const { code, message, retryable, retryAfterMs, stage } = fault;
  return { type: 'error', code, message, retryable, retryAfterMs, stage };
}
