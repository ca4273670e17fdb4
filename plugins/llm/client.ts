import { ProviderError } from '../../providers/errors.ts';
import type { ChatRequest, Provider, StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics.ts';
import { withDeadlines } from './deadlines.ts';
import type { ModelRoute, Target } from './model-routes.ts';

/** A question without its model, which the route names. */
export type Prompt = Omit<ChatRequest, 'model'>;

export interface LlmClient {
  /**
   * Asks the route's model. The iterator gives parts up to one `finish`, or throws a
   * `ProviderError`; when `signal` aborts it throws at once. Whoever stops early calls `return()`.
   * `onTarget` hears which upstream was asked.
   */
  ask(
    route: ModelRoute,
    prompt: Prompt,
    signal: AbortSignal,
    onTarget?: (target: Target) => void,
  ): AsyncIterator<StreamPart, void, undefined>;
}

export function createLlmClient(providers: ReadonlyMap<string, Provider>, clock: Clock, metrics: Metrics): LlmClient {
  return {
    ask(route, prompt, signal, onTarget) {
      const target = route.targets[0];
      const provider = providers.get(target.provider);
      if (provider === undefined) throw new Error(`route ${route.name} names no provider`);
      onTarget?.(target);
      const call = (upstream: AbortSignal) => provider.stream({ ...prompt, model: target.model }, upstream);
      return observed(withDeadlines(call, route.limits, clock, signal), target.provider, clock, metrics);
    },
  };
}

/** Counts how the attempt went, without a promise of its own per part. */
function observed(
  parts: AsyncIterator<StreamPart, void, undefined>,
  provider: string,
  clock: Clock,
  { firstTokenSeconds, upstreamAttempts }: Metrics,
): AsyncIterator<StreamPart, void, undefined> {
  const started = clock.now();
  let first = true;
  let counted = false;

  const count = (outcome: string) => {
    if (!counted) upstreamAttempts.inc({ provider, outcome });
    counted = true;
  };
  const onPart = (result: IteratorResult<StreamPart, void>) => {
    if (first) firstTokenSeconds.observe({ provider }, (clock.now() - started) / 1000);
    first = false;
    if (!result.done && result.value.type === 'finish') count('ok');
    return result;
  };
  const onError = (error: unknown) => {
    count(outcomeOf(error));
    throw error;
  };

  return {
    next: () => parts.next().then(onPart, onError),
    async return() {
      count('aborted');
      await parts.return?.();
      return { done: true, value: undefined };
    },
  };
}

function outcomeOf(error: unknown): string {
  if (error instanceof ProviderError) return error.reason;
  return (error as Error | undefined)?.name === 'AbortError' ? 'aborted' : 'internal';
}
