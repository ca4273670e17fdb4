import { ProviderError } from '../../providers/errors.ts';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';
import type { AttemptSpan } from '../tracing/index.ts';
import type { PartSink } from './attempt.ts';

/** A sink that also tells operators how one call went: in metrics, and in its span. */
export function withReport(
  sink: PartSink,
  provider: string,
  span: AttemptSpan,
  { clock, metrics }: { clock: Clock; metrics: Metrics },
): PartSink {
  const started = clock.now();
  let first = true;
  return {
    onPart(part) {
      if (first) {
        metrics.timeToFirstTokenSeconds.observe({ provider }, (clock.now() - started) / 1000);
        span.firstToken();
      }
      first = false;
      if (part.type === 'finish') {
        metrics.upstreamAttempts.inc({ provider, outcome: 'ok' });
        span.end(part);
      }
      return sink.onPart(part);
    },
    onFault(fault) {
      metrics.upstreamAttempts.inc({ provider, outcome: outcomeOf(fault) });
      if (fault instanceof ProviderError) {
        if (fault.stage !== undefined) metrics.timeouts.inc({ provider, stage: fault.stage });
        if (PARSE_ERRORS.has(fault.code)) metrics.parseErrors.inc({ provider });
      }
      span.end(undefined, fault);
      sink.onFault(fault);
    },
  };
}

const PARSE_ERRORS: ReadonlySet<string> = new Set(['upstream_protocol', 'upstream_truncated']);

function outcomeOf(fault: unknown): string {
  if (fault instanceof ProviderError) return fault.reason;
  return (fault as Error | undefined)?.name === 'AbortError' ? 'aborted' : 'internal';
}
