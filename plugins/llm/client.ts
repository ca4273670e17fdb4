import { ProviderError } from '../../providers/errors.ts';
import type { ChatRequest, Provider, StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { Metrics } from '../metrics/index.ts';
import type { Tracing } from '../tracing/index.ts';
import { type PartSink, runAttempt } from './attempt.ts';
import { reported } from './attempt-report.ts';
import { continued } from './continuation.ts';
import { isFailureOfTarget, isRefusalOfTarget, mayFallBack, waitBeforeRetry } from './retry.ts';
import type { RetryBudget } from './retry-budget.ts';
import type { Lease, Targets } from './targets.ts';

/** A question without its model, which the route names. */
export type Prompt = Omit<ChatRequest, 'model' | 'traceHeaders'>;

export interface AnswerSink extends PartSink {
  /** Which upstream is asked now. */
  onTarget(target: Target): void;
}

export interface LlmClient {
  /**
   * Asks the route's targets until one answers, and feeds the sink with the parts of the answer: up to
   * one `finish`, or up to a fault, which is a `ProviderError`, or the reason of `signal`'s abort.
   *
   * Until the first content a target that fails is asked once more, and then the next one. After it
   * nothing is asked again, unless the route says that another target may go on with the text.
   *
   * With `said` the answer is not begun but gone on with, behind that text.
   */
  ask(route: ModelRoute, prompt: Prompt, sink: AnswerSink, signal: AbortSignal, said?: string): void;
}

export interface ClientOptions {
  readonly targets: Targets;
  readonly budget: RetryBudget;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly tracing: Tracing;
  /** From 0 to 1. */
  readonly random?: () => number;
}

export function createLlmClient({
  targets,
  budget,
  clock,
  metrics,
  tracing,
  random = Math.random,
}: ClientOptions): LlmClient {
  return { ask };

  function ask(route: ModelRoute, prompt: Prompt, sink: AnswerSink, signal: AbortSignal, said = ''): void {
    const deadline = clock.now() + route.limits.totalMs;
    const answered: string[] = [];
    /** Kept only where another target may have to go on with it; undefined once tools were called. */
    let text: string[] | undefined = route.onMidStreamFailure === 'continue' ? [said] : undefined;
    let asking = said ? continued(prompt, said, route.continuePrompt) : prompt;
    /** Whom the question may go to. */
    let able = said ? canContinue : (_: Provider) => true;
    let denied = false;

    budget.deposit();
    const first = targets.take(route, 0, able);
    if (first) begin(first, 1);
    else sink.onFault(targets.unavailable(route));

    function begin(lease: Lease, tries: number): void {
      const { target, provider } = lease;
      let content = false;
      const onPart = (part: StreamPart) => {
        if (part.type === 'finish') {
          if (!content) lease.works();
          lease.end(false);
          return sink.onPart(answered.length > 1 ? { ...part, targets: answered } : part);
        }
        if (!content) {
          content = true;
          lease.works();
          answered.push(`${target.provider}/${target.model}`);
        }
        if (part.type === 'text') text?.push(part.text);
        else if (part.type === 'tool_call') text = undefined;
        return sink.onPart(part);
      };
      const onFault = (fault: unknown) => {
        lease.end(!signal.aborted && isFailureOfTarget(fault));
        if (signal.aborted) sink.onFault(fault);
        else if (content) goOn(lease, fault);
        else askAgain(lease, tries, fault);
      };
      sink.onTarget(target);
      const limits = { ...route.limits, totalMs: deadline - clock.now() };
      const request = { ...asking, model: target.model };
      const span = tracing.attempt(target.provider, request);
      const call = (upstream: AbortSignal) => provider.stream({ ...request, traceHeaders: span.headers }, upstream);
      const attempt = reported({ onPart, onFault }, target.provider, span, { clock, metrics });
      try {
        runAttempt(call, limits, clock, attempt, signal);
      } catch (fault) {
        attempt.onFault(fault);
      }
    }

    /** The same target after a pause, or the next one at once. */
    function askAgain(lease: Lease, tries: number, fault: unknown): void {
      const { index, target } = lease;
      const wait = lease.mayRetry() ? waitBeforeRetry(fault, tries, random) : undefined;
      if (wait !== undefined && clock.now() + wait < deadline && afford()) {
        pause(wait, () => {
          const again = targets.take(route, index, able);
          if (again === undefined) return sink.onFault(fault);
          if (again.index === index) metrics.retries.inc({ provider: target.provider });
          else metrics.fallbacks.inc({ from: target.provider, to: again.target.provider });
          begin(again, again.index === index ? tries + 1 : 1);
        });
        return;
      }
      const next = mayFallBack(fault) ? targets.take(route, index + 1, able) : undefined;
      handOver(fault, target, next, metrics.fallbacks);
    }

    /** The next target continues the answer, where the route wants that and it can be done. */
    function goOn({ index, target }: Lease, fault: unknown): void {
      const said = fault instanceof ProviderError && fault.stage !== 'total' ? text?.join('') : undefined;
      if (said !== undefined) able = canContinue;
      const next = said === undefined ? undefined : targets.take(route, index + 1, able);
      // Of one that had only thought there is nothing to go on with.
      asking = said ? continued(prompt, said, route.continuePrompt) : prompt;
      handOver(fault, target, next, metrics.continuations);
    }

    function handOver(fault: unknown, from: Target, next: Lease | undefined, counter: Metrics['fallbacks']): void {
      if (next !== undefined && (isRefusalOfTarget(fault) || afford())) {
        counter.inc({ from: from.provider, to: next.target.provider });
        begin(next, 1);
        return;
      }
      next?.end(false);
      sink.onFault(fault);
    }

    function afford(): boolean {
      if (denied || budget.withdraw()) return !denied;
      denied = true;
      metrics.retriesDenied.inc();
      return false;
    }

    function pause(ms: number, then: () => void): void {
      const onAbort = () => {
        cancel();
        sink.onFault(signal.reason);
      };
      const cancel = clock.after(ms, () => {
        signal.removeEventListener('abort', onAbort);
        then();
      });
      signal.addEventListener('abort', onAbort, { once: true });
    }
  }
}

function canContinue({ continues }: Provider): boolean {
  return continues !== false;
}
