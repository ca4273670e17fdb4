import type { AnswerPart, ChatRequest, Provider } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { Metrics } from '../metrics/index.ts';
import type { Tracing } from '../tracing/index.ts';
import { type AnswerSink, runAttempt } from './attempt.ts';
import { createAttemptReport, outcomeOf } from './attempt-report.ts';
import type { PriceOf } from './call-price.ts';
import { AnswerProgress } from './continuation.ts';
import { countsAgainstTarget, isRateLimit, nextStep, UNSUPPORTED } from './next-step.ts';
import { type Prompt, requestFor } from './request-settings.ts';
import type { RetryBudget } from './retry-budget.ts';
import type { Choice, IsEligible, TargetSlot, Targets } from './targets.ts';

export type { AnswerSink, Prompt };

export interface GenerateOptions {
  /** Owner of the question. Failures of one owner alone close a target to no other. */
  readonly owner?: string | undefined;
  /** Text that the answer continues instead of starting over. */
  readonly partialAnswer?: string | undefined;
}

export interface LlmClient {
  /**
   * Calls the targets of a route until one answers. Passes the parts of the answer to the sink: up to one
   * `finish`, or up to a fault: a `ProviderError`, the reason of the abort, or an error of this service.
   *
   * Before the first content, the next target is called after a failure, or the same one again if there is no other.
   * After it, nothing is called again, unless the route lets another target continue the text.
   */
  generate(route: ModelRoute, prompt: Prompt, sink: AnswerSink, signal: AbortSignal, options?: GenerateOptions): void;
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
  readonly priceOf?: PriceOf;
  /** Returns a random number from 0 to 1. */
  readonly random?: () => number;
  /** Takes an error of a sink to which its fault cannot be reported. */
  readonly onError?: (error: unknown) => void;
}

/** A call to make. */
interface Step {
  readonly kind: 'first' | 'again' | 'next' | 'continue';
  readonly slot: TargetSlot;
  /** Calls of the target for the question, this one included. */
  readonly tries: number;
  /** The target that has failed. */
  readonly from?: Target;
}

export function createLlmClient(options: ClientOptions): LlmClient {
  const { targets, budget, clock, metrics, tracing, priceOf, random = Math.random, onError = () => {} } = options;
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
    { owner = '', partialAnswer = '' }: GenerateOptions = {},
  ): void {
    budget.deposit();
    const progress = new AnswerProgress(route, prompt, partialAnswer, priceOf);
    const steps = runSteps(route, progress, sink, signal, owner);
    const slot = steps.reserve(0);
    if (slot) steps.run({ kind: 'first', slot, tries: 1 });
    else sink.onFault(unsupported(route, prompt) === undefined ? targets.unavailableError(route, owner) : UNSUPPORTED);
  }

  /** Makes one call after the other. Takes no prompt: what `progress` drops is held by no closure of a running call. */
  function runSteps(
    route: ModelRoute,
    progress: AnswerProgress,
    sink: AnswerSink,
    signal: AbortSignal,
    owner: string,
  ): { run(step: Step): void; reserve(from: number): TargetSlot | undefined } {
    const deadline = clock.now() + route.deadlines.totalMs;
    let isOver = false;
    const isEligible: IsEligible = (provider, target) => {
      if (progress.prompt === undefined) return false;
      if (progress.isContinuation && provider.supportsContinuation === false) return false;
      return provider.unsupported?.(requestFor(progress.prompt, target, provider, route)) === undefined;
    };
    const choice = (from: number): Choice => ({ from, owner, isEligible });
    const reserve = (from: number) => targets.reserve(route, choice(from));
    return { run, reserve };

    function run(step: Step): void {
      const { slot, tries } = step;
      const { target, provider } = slot;
      count(step);
      const request = progress.startCall(target, requestFor(progress.prompt ?? NO_PROMPT, target, provider, route));
      const span = tracing.attempt(target.provider, request);
      const report = createAttemptReport({ provider: target.provider, span, clock, metrics });
      let hasBegun = false;

      const onPart = (part: AnswerPart) => {
        if (!hasBegun) {
          hasBegun = true;
          slot.succeeded();
          report.onFirstPart();
          sink.onFirstPart();
          progress.begin(target, part);
        }
        if (part.type === 'finish') {
          slot.release(false);
          const priced = progress.withCost(part);
          report.onFinish(priced);
          sink.onCallEnd?.({ target, outcome: 'ok' });
          return sink.onPart(progress.finish(priced, target));
        }
        progress.add(part);
        return sink.onPart(part);
      };
      const onFault = (fault: unknown) =>
        guard(() => {
          if (isRateLimit(fault)) slot.rateLimited();
          slot.release(!signal.aborted && countsAgainstTarget(fault));
          report.onFault(fault);
          if (signal.aborted) end(fault);
          else follow(slot, tries, hasBegun, fault);
        });

      const deadlines = { ...route.deadlines, totalMs: deadline - clock.now() };
      try {
        sink.onTarget(target, progress.price);
        runAttempt(callOf(provider, request, span.headers), deadlines, clock, { onPart, onFault }, signal);
      } catch (fault) {
        onFault(fault);
      }
    }

    /** Takes the step after a failed call. */
    function follow(
      { index, target, canRetry, cooldownMs }: TargetSlot,
      tries: number,
      hasBegun: boolean,
      fault: unknown,
    ): void {
      const outputTokens = hasBegun ? progress.breakOff() : undefined;
      sink.onCallEnd?.({ target, outcome: outcomeOf(fault), fault, outputTokens });
      const step = nextStep(fault, {
        tries,
        hasBegun,
        canContinue: progress.canContinue,
        hasNext: targets.isFree(route, choice(index + 1)),
        isClosed: canRetry(),
        cooldownMs: cooldownMs(),
        remainingMs: deadline - clock.now(),
        random: random(),
      });
      if (step.kind === 'next' || step.kind === 'continue') start(step.kind, reserve(index + 1));
      else if (step.kind === 'again' && (step.isFree || withdraw())) {
        wait(step.waitMs, () => {
          const slot = reserve(index);
          // Another target may have become free meanwhile.
          if (slot?.index === index) run({ kind: 'again', slot, tries: tries + 1, from: target });
          else start('next', slot);
        });
      } else end(fault);

      function start(kind: Step['kind'], slot: TargetSlot | undefined): void {
        if (slot) run({ kind, slot, tries: 1, from: target });
        else end(fault);
      }
    }

    function wait(ms: number, then: () => void): void {
      const onAbort = () => {
        cancel();
        end(signal.reason);
      };
      const cancel = clock.after(ms, () => {
        signal.removeEventListener('abort', onAbort);
        guard(then);
      });
      signal.addEventListener('abort', onAbort, { once: true });
    }

    /** Runs a callback of a timer or an event, which must not throw. Its error ends the answer. */
    function guard(callback: () => void): void {
      try {
        callback();
      } catch (error) {
        end(error);
      }
    }

    function end(fault: unknown): void {
      if (isOver) return;
      isOver = true;
      try {
        sink.onFault(fault);
      } catch (error) {
        onError(error);
      }
    }
  }

  function withdraw(): boolean {
    if (budget.withdraw()) return true;
    metrics.retriesDenied.inc();
    return false;
  }

  function count({ kind, slot, from }: Step): void {
    const to = slot.target.provider;
    if (kind === 'again') metrics.retries.inc({ provider: to });
    else if (from !== undefined) {
      const counter = kind === 'continue' ? metrics.continuations : metrics.fallbacks;
      counter.inc({ from: from.provider, to });
    }
  }
}

const NO_PROMPT: Prompt = { messages: [] };

/** Returns the call for `runAttempt`. A function of its own, so that no other closure of the attempt holds the request. */
function callOf(provider: Provider, request: ChatRequest, traceHeaders: ChatRequest['traceHeaders']) {
  return (upstream: AbortSignal) => provider.stream({ ...request, traceHeaders }, upstream);
}
