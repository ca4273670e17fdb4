import { ProviderError } from '../../providers/errors.ts';
import type { ChatRequest, Provider, StreamPart } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { Metrics } from '../metrics/index.ts';
import type { Tracing } from '../tracing/index.ts';
import { type PartSink, runAttempt } from './attempt.ts';
import { withReport } from './attempt-report.ts';
import { appendContinuation } from './continuation.ts';
import { canFallBack, countsAgainstTarget, isRejectedByTarget, retryWaitMs } from './retry.ts';
import type { RetryBudget } from './retry-budget.ts';
import type { TargetSlot, Targets } from './targets.ts';

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
  generate(route: ModelRoute, prompt: Prompt, sink: AnswerSink, signal: AbortSignal, partialAnswer?: string): void;
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
  return { generate };

  function generate(
    route: ModelRoute,
    prompt: Prompt,
    sink: AnswerSink,
    signal: AbortSignal,
    partialAnswer = '',
  ): void {
    const deadline = clock.now() + route.deadlines.totalMs;
    const answeredBy: string[] = [];
    /** Kept only where another target may have to go on with it; undefined once tools were called. */
    let text: string[] | undefined = route.onMidStreamFailure === 'continue' ? [partialAnswer] : undefined;
    let currentPrompt = partialAnswer ? appendContinuation(prompt, partialAnswer, route.continuePrompt) : prompt;
    /** Whom the question may go to. */
    let isEligible = partialAnswer ? supportsContinuation : (_: Provider) => true;
    let isBudgetDenied = false;

    budget.deposit();
    const first = targets.reserve(route, 0, isEligible);
    if (first) startAttempt(first, 1);
    else sink.onFault(targets.unavailableError(route));

    function startAttempt(lease: TargetSlot, tries: number): void {
      const { target, provider } = lease;
      let content = false;
      const onPart = (part: StreamPart) => {
        if (part.type === 'finish') {
          if (!content) lease.succeeded();
          lease.release(false);
          return sink.onPart(answeredBy.length > 1 ? { ...part, targets: answeredBy } : part);
        }
        if (!content) {
          content = true;
          lease.succeeded();
          answeredBy.push(`${target.provider}/${target.model}`);
        }
        if (part.type === 'text') text?.push(part.text);
        else if (part.type === 'tool_call') text = undefined;
        return sink.onPart(part);
      };
      const onFault = (fault: unknown) => {
        lease.release(!signal.aborted && countsAgainstTarget(fault));
        if (signal.aborted) sink.onFault(fault);
        else if (content) continueAnswer(lease, fault);
        else retryOrFallBack(lease, tries, fault);
      };
      sink.onTarget(target);
      const limits = { ...route.deadlines, totalMs: deadline - clock.now() };
      const request = { ...currentPrompt, model: target.model };
      const span = tracing.attempt(target.provider, request);
      const call = (upstream: AbortSignal) => provider.stream({ ...request, traceHeaders: span.headers }, upstream);
      const attempt = withReport({ onPart, onFault }, target.provider, span, { clock, metrics });
      try {
        runAttempt(call, limits, clock, attempt, signal);
      } catch (fault) {
        attempt.onFault(fault);
      }
    }

    /** The same target after a pause, or the next one at once. */
    function retryOrFallBack(lease: TargetSlot, tries: number, fault: unknown): void {
      const { index, target } = lease;
      const wait = lease.canRetry() ? retryWaitMs(fault, tries, random) : undefined;
      if (wait !== undefined && clock.now() + wait < deadline && withdrawBudget()) {
        pause(wait, () => {
          const again = targets.reserve(route, index, isEligible);
          if (again === undefined) return sink.onFault(fault);
          if (again.index === index) metrics.retries.inc({ provider: target.provider });
          else metrics.fallbacks.inc({ from: target.provider, to: again.target.provider });
          startAttempt(again, again.index === index ? tries + 1 : 1);
        });
        return;
      }
      const next = canFallBack(fault) ? targets.reserve(route, index + 1, isEligible) : undefined;
      startNext(fault, target, next, metrics.fallbacks);
    }

    /** The next target continues the answer, where the route wants that and it can be done. */
    function continueAnswer({ index, target }: TargetSlot, fault: unknown): void {
      const textSoFar = fault instanceof ProviderError && fault.stage !== 'total' ? text?.join('') : undefined;
      if (textSoFar !== undefined) isEligible = supportsContinuation;
      const next = textSoFar === undefined ? undefined : targets.reserve(route, index + 1, isEligible);
      // Of one that had only thought there is nothing to go on with.
      currentPrompt = textSoFar ? appendContinuation(prompt, textSoFar, route.continuePrompt) : prompt;
      startNext(fault, target, next, metrics.continuations);
    }

    function startNext(
      fault: unknown,
      from: Target,
      next: TargetSlot | undefined,
      counter: Metrics['fallbacks'],
    ): void {
      if (next !== undefined && (isRejectedByTarget(fault) || withdrawBudget())) {
        counter.inc({ from: from.provider, to: next.target.provider });
        startAttempt(next, 1);
        return;
      }
      next?.release(false);
      sink.onFault(fault);
    }

    function withdrawBudget(): boolean {
      if (isBudgetDenied || budget.withdraw()) return !isBudgetDenied;
      isBudgetDenied = true;
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

function supportsContinuation({ supportsContinuation }: Provider): boolean {
  return supportsContinuation !== false;
}
