import { ProviderError } from '../../providers/errors.ts';
import type { ChatRequest, Provider } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics.ts';
import { type PartSink, runAttempt } from './attempt.ts';
import type { ModelRoute, Target } from './model-routes.ts';

/** A question without its model, which the route names. */
export type Prompt = Omit<ChatRequest, 'model'>;

export interface AnswerSink extends PartSink {
  /** Which upstream is asked now. */
  onTarget(target: Target): void;
}

export interface LlmClient {
  /**
   * Asks the route's model, and feeds the sink with the parts of its answer: up to one `finish`, or
   * up to a fault, which is a `ProviderError`, or the reason of `signal`'s abort.
   */
  ask(route: ModelRoute, prompt: Prompt, sink: AnswerSink, signal: AbortSignal): void;
}

export function createLlmClient(providers: ReadonlyMap<string, Provider>, clock: Clock, metrics: Metrics): LlmClient {
  return {
    ask(route, prompt, sink, signal) {
      const target = route.targets[0];
      const provider = providers.get(target.provider);
      if (provider === undefined) throw new Error(`route ${route.name} names no provider`);
      sink.onTarget(target);
      const call = (upstream: AbortSignal) => provider.stream({ ...prompt, model: target.model }, upstream);
      runAttempt(call, route.limits, clock, counted(sink, target.provider, clock, metrics), signal);
    },
  };
}

/** Counts how the attempt went. */
function counted(sink: PartSink, provider: string, clock: Clock, metrics: Metrics): PartSink {
  const started = clock.now();
  let first = true;
  return {
    onPart(part) {
      if (first) metrics.firstTokenSeconds.observe({ provider }, (clock.now() - started) / 1000);
      first = false;
      if (part.type === 'finish') metrics.upstreamAttempts.inc({ provider, outcome: 'ok' });
      return sink.onPart(part);
    },
    onFault(fault) {
      metrics.upstreamAttempts.inc({ provider, outcome: outcomeOf(fault) });
      sink.onFault(fault);
    },
  };
}

function outcomeOf(fault: unknown): string {
  if (fault instanceof ProviderError) return fault.reason;
  return (fault as Error | undefined)?.name === 'AbortError' ? 'aborted' : 'internal';
}
