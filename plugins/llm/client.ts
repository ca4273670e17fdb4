import { ProviderError } from '../../providers/errors.ts';
import type { AnswerPart, ChatRequest, Provider } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { Metrics } from '../metrics/index.ts';
import type { Tracing } from '../tracing/index.ts';
import { type PartSink, runAttempt } from './attempt.ts';
import { createAttemptReport } from './attempt-report.ts';
import { appendContinuation } from './continuation.ts';
import { applySettings } from './request-settings.ts';
import { canFallBack, countsAgainstTarget, isFreeRetry, isRejectedByTarget, retryWaitMs } from './retry.ts';
import type { RetryBudget } from './retry-budget.ts';
import type { IsEligible, TargetSlot, Targets } from './targets.ts';

/** A question without its model; the route names the model. */
export type Prompt = Omit<ChatRequest, 'model' | 'traceHeaders'>;

export interface AnswerSink extends PartSink {
  /** Called before each call of a target. */
  onTarget(target: Target): void;
  /** Called before the first part of each call. */
  onFirstPart(): void;
}

export interface LlmClient {
  /**
   * Calls the targets of a route until one answers. Passes the parts of the answer to the sink: up to one
   * `finish`, or up to a fault: a `ProviderError`, the reason of the abort, or an error of this service.
   *
   * Before the first content, a failed target is retried once, then the next target is called. After it,
   * nothing is called again, unless the route lets another target continue the text.
   *
   * With a `partialAnswer`, the answer continues that text instead of starting over.
   */
  generate(route: ModelRoute, prompt: Prompt, sink: AnswerSink, signal: AbortSignal, partialAnswer?: string): void;
  /**
   * Returns the name of something in the prompt that no target of the route can express, and that would change the
   * answer; undefined if a target can be asked.
   */
  unsupported(route: ModelRoute, prompt: Prompt): string | undefined;
}

export interface ClientOptions {
  readonly targets: Targets;
  readonly budget: RetryBudget;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly tracing: Tracing;
  /** Returns a random number from 0 to 1. */
  readonly random?: () => number;
}

export function createLlmClient(options: ClientOptions): LlmClient {
  const { targets, budget, clock, metrics, tracing, random = Math.random } = options;
  return { generate, unsupported };

  function unsupported(route: ModelRoute, prompt: Prompt): string | undefined {
    const names = route.targets.map((target) => {
      const provider = targets.providerOf(target, route);
      return provider.unsupported?.(requestFor(prompt, target, provider, route));
    });
    return names.includes(undefined) ? undefined : names[0];
  }

  function generate(
    route: ModelRoute,
    prompt: Prompt,
    sink: AnswerSink,
    signal: AbortSignal,
    partialAnswer = '',
  ): void {
    const deadline = clock.now() + route.deadlines.totalMs;
    const answeredBy: string[] = [];
    /** Kept only if another target may continue the text; undefined after a tool call. */
    let text: string[] | undefined = route.onMidStreamFailure === 'continue' ? [partialAnswer] : undefined;
    let currentPrompt = partialAnswer ? appendContinuation(prompt, partialAnswer, route.continuePrompt) : prompt;
    let isContinuation = partialAnswer !== '';
    const isEligible: IsEligible = (provider, target) =>
      (!isContinuation || provider.supportsContinuation !== false) &&
      provider.unsupported?.(requestFor(currentPrompt, target, provider, route)) === undefined;
    let isBudgetDenied = false;

    budget.deposit();
    const first = targets.reserve(route, 0, isEligible);
    if (first) startAttempt(first, 1);
    else sink.onFault(unsupported(route, prompt) === undefined ? targets.unavailableError(route) : UNSUPPORTED);

    function startAttempt(slot: TargetSlot, tries: number): void {
      const { target, provider } = slot;
      const request = requestFor(currentPrompt, target, provider, route);
      const span = tracing.attempt(target.provider, request);
      const report = createAttemptReport({ provider: target.provider, span, clock, metrics });
      let hasBegun = false;

      const onPart = (part: AnswerPart) => {
        if (!hasBegun) {
          hasBegun = true;
          slot.succeeded();
          report.onFirstPart();
          sink.onFirstPart();
          if (part.type !== 'finish') answeredBy.push(`${target.provider}/${target.model}`);
        }
        if (part.type === 'finish') {
          slot.release(false);
          report.onFinish(part);
          return sink.onPart({
            ...part,
            ...(part.state && { state: { ...part.state, provider: target.provider } }),
            ...(answeredBy.length > 1 && { targets: answeredBy }),
          });
        }
        if (part.type === 'text') text?.push(part.text);
        else if (part.type === 'tool_call') text = undefined;
        return sink.onPart(part);
      };
      const onFault = (fault: unknown) => {
        slot.release(!signal.aborted && countsAgainstTarget(fault));
        report.onFault(fault);
        if (signal.aborted) sink.onFault(fault);
        else if (hasBegun) continueAnswer(slot, fault);
        else retryOrFallBack(slot, tries, fault);
      };

      sink.onTarget(target);
      const deadlines = { ...route.deadlines, totalMs: deadline - clock.now() };
      const call = (upstream: AbortSignal) => provider.stream({ ...request, traceHeaders: span.headers }, upstream);
      try {
        runAttempt(call, deadlines, clock, { onPart, onFault }, signal);
      } catch (fault) {
        onFault(fault);
      }
    }

    /** Retries the same target after a wait, or calls the next one immediately. */
    function retryOrFallBack(slot: TargetSlot, tries: number, fault: unknown): void {
      const { index, target } = slot;
      const waitMs = slot.canRetry() ? retryWaitMs(fault, tries, random) : undefined;
      if (waitMs !== undefined && clock.now() + waitMs < deadline && (isFreeRetry(fault) || withdrawBudget())) {
        wait(waitMs, () => {
          const next = targets.reserve(route, index, isEligible);
          if (next === undefined) return sink.onFault(fault);
          const isRetry = next.index === index;
          if (isRetry) metrics.retries.inc({ provider: target.provider });
          else metrics.fallbacks.inc({ from: target.provider, to: next.target.provider });
          startAttempt(next, isRetry ? tries + 1 : 1);
        });
        return;
      }
      const next = canFallBack(fault) ? targets.reserve(route, index + 1, isEligible) : undefined;
      startNext(fault, target, next, metrics.fallbacks);
    }

    /** Lets the next target continue the answer, if the route allows it and the answer is text. */
    function continueAnswer({ index, target }: TargetSlot, fault: unknown): void {
      const textSoFar = fault instanceof ProviderError && fault.stage !== 'total' ? text?.join('') : undefined;
      if (textSoFar !== undefined) isContinuation = true;
      const next = textSoFar === undefined ? undefined : targets.reserve(route, index + 1, isEligible);
      // If the model produced only reasoning, there is no text to continue: start over.
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
      if (isBudgetDenied) return false;
      if (budget.withdraw()) return true;
      isBudgetDenied = true;
      metrics.retriesDenied.inc();
      return false;
    }

    function wait(ms: number, then: () => void): void {
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

/** The settings have changed since the question was accepted. */
const UNSUPPORTED = new ProviderError('upstream_rejected', {
  reason: 'unsupported_option',
  retryable: false,
  upstreamStatus: 400,
});

/** Returns the request for a target: with the operator's settings, and without the state of other providers. */
function requestFor(prompt: Prompt, target: Target, provider: Provider, route: ModelRoute): ChatRequest {
  const messages = prompt.messages.map((message) => {
    if (message.role !== 'assistant' || message.state === undefined) return message;
    if (message.state.provider === target.provider) return message;
    const { state: _, ...others } = message;
    return others;
  });
  return applySettings({ ...prompt, messages, model: target.model }, [route.settings, provider.settings]);
}
