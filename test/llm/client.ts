import { setImmediate as turn } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { Registry } from 'prom-client';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import type { PriceOf } from '../../plugins/llm/call-price.ts';
import { createLlmClient, type LlmClient, type Prompt } from '../../plugins/llm/client.ts';
import { RetryBudget } from '../../plugins/llm/retry-budget.ts';
import { createTargets, type Targets } from '../../plugins/llm/targets.ts';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { upstreamMetrics } from '../../plugins/metrics/upstreams.ts';
import type { AttemptSpan } from '../../plugins/tracing/attempt.ts';
import { NO_SPAN } from '../../plugins/tracing/no-span.ts';
import type { AnswerPart, FinishPart } from '../../providers/types.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import type { FakeProvider } from './fake-provider.ts';

/** An LLM client with scripted providers and a clock that the test advances. Builds no service. */

export interface Outcome {
  text: string;
  reasoning: string;
  finish?: FinishPart;
  fault?: unknown;
  /** The providers in the order in which they were called. */
  readonly called: string[];
  /** Number of calls that have delivered a first part. */
  begun: number;
}

/** A generation that runs until its script ends or until it is aborted. */
export interface Running {
  readonly outcome: Outcome;
  hasEnded(): boolean;
  abort(): void;
}

export interface GenerateOptions {
  readonly prompt?: Prompt;
  readonly signal?: AbortSignal;
  readonly partialAnswer?: string;
  readonly owner?: string;
}

export interface SetUpOptions {
  readonly route?: Partial<ModelRoute>;
  readonly maxConcurrent?: number | ((provider: string) => number);
  readonly span?: AttemptSpan;
  readonly priceOf?: PriceOf;
}

export interface TestClient {
  readonly client: LlmClient;
  /** Errors that could not be reported to a sink. */
  readonly errors: unknown[];
  readonly clock: ManualClock;
  readonly targets: Targets;
  readonly route: ModelRoute;
  readonly budget: RetryBudget;
  /** Starts a generation and lets its first call begin. */
  start(options?: GenerateOptions): Promise<Running>;
  /** Runs a generation to its end, while the clock advances. */
  generate(options?: GenerateOptions): Promise<Outcome>;
  unsupported(prompt: Prompt): string | undefined;
  metric(name: string, labels?: Record<string, string>): Promise<number>;
  metricsText(): Promise<string>;
}

/** Lets everything that waits for no timer go on. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await turn();
}

export function setUp(providers: readonly FakeProvider[], options: SetUpOptions = {}): TestClient {
  const { maxConcurrent = Number.POSITIVE_INFINITY, span = NO_SPAN, priceOf = () => undefined } = options;
  const clock = manualClock();
  const registry = new Registry();
  const metrics = upstreamMetrics([registry]) as unknown as Metrics;
  const targets = createTargets({
    providers: new Map(providers.map((provider) => [provider.name, provider])),
    maxConcurrent: (name) => (typeof maxConcurrent === 'number' ? maxConcurrent : maxConcurrent(name)),
    clock,
    metrics,
  });
  const budget = new RetryBudget(clock);
  const tracing = { attempt: () => span };
  const errors: unknown[] = [];
  const onError = (error: unknown) => void errors.push(error);
  const client = createLlmClient({ targets, budget, clock, metrics, tracing, priceOf, random: () => 0.5, onError });
  const [first, ...rest] = providers.map(({ name }) => ({ provider: name, model: 'm' }));
  if (first === undefined) throw new Error('no provider');
  const route: ModelRoute = {
    name: 'r',
    label: 'r',
    targets: [first, ...rest],
    deadlines: { firstTokenMs: 60_000, idleMs: 30_000, thinkingMs: 300_000, totalMs: 600_000 },
    onMidStreamFailure: 'error',
    continuePrompt: 'Continue.',
    ...options.route,
  };

  const start: TestClient['start'] = async ({ prompt, signal, partialAnswer, owner } = {}) => {
    const outcome: Outcome = { text: '', reasoning: '', called: [], begun: 0 };
    const controller = new AbortController();
    const usedSignal = signal ?? controller.signal;
    let hasEnded = false;
    const end = () => {
      if (hasEnded) throw new Error('the generation has ended twice');
      hasEnded = true;
    };
    const sink = {
      onTarget: ({ provider }: { provider: string }) => void outcome.called.push(provider),
      onFirstPart() {
        outcome.begun += 1;
      },
      onPart(part: AnswerPart) {
        if (part.type === 'finish') {
          outcome.finish = part;
          end();
        } else if (part.type !== 'tool_call') outcome[part.type] += part.text;
        return undefined;
      },
      onFault(reason: unknown) {
        outcome.fault = reason;
        end();
      },
    };
    client.generate(route, prompt ?? { messages: [{ role: 'user', content: 'q' }] }, sink, usedSignal, {
      owner,
      partialAnswer,
    });
    await settle();
    return { outcome, hasEnded: () => hasEnded, abort: () => controller.abort() };
  };

  return {
    client,
    errors,
    clock,
    targets,
    route,
    budget,
    unsupported: (prompt) => client.unsupported(route, prompt),
    start,
    async generate(generateOptions) {
      const running = await start(generateOptions);
      for (let i = 0; i < 60 && !running.hasEnded(); i++) {
        clock.advance(250);
        await settle();
      }
      return running.outcome;
    },
    metric: (name, labels) =>
      metricValue({ metrics: { text: () => registry.metrics() } } as unknown as FastifyInstance, name, labels),
    metricsText: () => registry.metrics(),
  };
}

/** Uses up the retry budget. */
export function emptyBudget(budget: RetryBudget): void {
  while (budget.withdraw());
}
