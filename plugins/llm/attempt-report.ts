import { OverloadedError, ProviderError } from '../../providers/errors.ts';
import type { FinishPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';
import type { AttemptSpan } from '../tracing/index.ts';

/** Reports one upstream call to operators: in metrics and in its span. */
export interface AttemptReport {
  onFirstPart(): void;
  onFinish(part: FinishPart): void;
  onFault(fault: unknown): void;
}

export interface AttemptReportOptions {
  readonly provider: string;
  readonly span: AttemptSpan;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

const PARSE_ERRORS: ReadonlySet<string> = new Set(['upstream_protocol', 'upstream_truncated']);

export function createAttemptReport({ provider, span, clock, metrics }: AttemptReportOptions): AttemptReport {
  const startedAt = clock.now();
  return {
    onFirstPart() {
      metrics.timeToFirstTokenSeconds.observe({ provider }, (clock.now() - startedAt) / 1000);
      span.firstToken();
    },
    onFinish(part) {
      metrics.upstreamAttempts.inc({ provider, outcome: 'ok' });
      span.end(part);
    },
    onFault(fault) {
      metrics.upstreamAttempts.inc({ provider, outcome: outcomeOf(fault) });
      if (fault instanceof ProviderError) {
        if (fault.stage !== undefined) metrics.timeouts.inc({ provider, stage: fault.stage });
        if (fault.refusal !== undefined) metrics.upstreamRefusals.inc({ provider, reason: fault.refusal });
        if (PARSE_ERRORS.has(fault.code)) metrics.parseErrors.inc({ provider });
      }
      span.end(undefined, fault);
    },
  };
}

/** Returns the reason of a failure, as a word of a bounded list. */
export function outcomeOf(fault: unknown): string {
  if (fault instanceof ProviderError || fault instanceof OverloadedError) return fault.reason;
  return (fault as Error | undefined)?.name === 'AbortError' ? 'aborted' : 'internal';
}
