import { setMaxListeners } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import type { Clock } from '../../plugins/clock.ts';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import { createLlmClient, type Prompt } from '../../plugins/llm/client.ts';
import { RetryBudget } from '../../plugins/llm/retry-budget.ts';
import { createTargets } from '../../plugins/llm/targets.ts';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { NO_SPAN } from '../../plugins/tracing/no-span.ts';
import type { Provider } from '../../providers/types.ts';
import { createApiKeys } from '../../providers/wire/api-keys.ts';
import { FINISH, textPart } from './fake-provider.ts';

/** Asks a route questions at a steady rate, with a clock that only the simulation advances. */

/** Answers a request: with an error, after a delay, or at once. */
export type Behaviour = (request: { readonly key: string; readonly count: number }) => Error | number | undefined;

export interface Simulation {
  readonly questions: number;
  /** Questions that were not answered. */
  readonly failures: unknown[];
  /** Requests of each target, those with further keys included. */
  readonly requests: Readonly<Record<string, number>>;
  /** Requests beyond one per question. */
  readonly extra: number;
  readonly retries: number;
  readonly denied: number;
}

export interface SimulationOptions {
  readonly targets: Readonly<Record<string, { readonly keys?: readonly string[]; readonly behave?: Behaviour }>>;
  readonly perSecond: number;
  readonly seconds: number;
  readonly firstTokenMs?: number;
  readonly owners?: readonly string[];
}

const PROMPT: Prompt = { messages: [{ role: 'user', content: 'q' }] };

export async function simulate(options: SimulationOptions): Promise<Simulation> {
  const { perSecond, seconds, firstTokenMs = 10_000, owners = ['o'] } = options;
  const clock = simulationClock();
  const { metrics, counts } = countingMetrics();
  const requests: Record<string, number> = {};
  const providers = new Map<string, Provider>();
  for (const [name, { keys = [], behave = () => undefined }] of Object.entries(options.targets)) {
    requests[name] = 0;
    providers.set(
      name,
      createProvider(name, keys, clock, ({ key }) => {
        const count = (requests[name] ?? 0) + 1;
        requests[name] = count;
        return behave({ key, count });
      }),
    );
  }
  const targets = createTargets({ providers, maxConcurrent: () => Number.POSITIVE_INFINITY, clock, metrics });
  const tracing = { attempt: () => NO_SPAN };
  const client = createLlmClient({ targets, budget: new RetryBudget(clock), clock, metrics, tracing });
  const [first, ...rest] = Object.keys(options.targets).map((provider) => ({ provider, model: 'm' }));
  const route: ModelRoute = {
    name: 'r',
    label: 'r',
    targets: [first ?? { provider: '', model: '' }, ...rest],
    deadlines: { firstTokenMs, idleMs: 30_000, thinkingMs: 300_000, totalMs: 600_000 },
    onMidStreamFailure: 'error',
    continuePrompt: '',
  };

  const questions = perSecond * seconds;
  const failures: unknown[] = [];
  let pending = 0;
  const { signal } = new AbortController();
  setMaxListeners(0, signal);
  const sink = {
    onTarget() {},
    onFirstPart() {},
    onPart(part: { readonly type: string }) {
      if (part.type === 'finish') pending -= 1;
      return undefined;
    },
    onFault(fault: unknown) {
      pending -= 1;
      failures.push(fault);
    },
  };
  for (let i = 0; i < questions; i++) {
    pending += 1;
    client.generate(route, PROMPT, sink, signal, { owner: owners[i % owners.length] });
    await turn();
    // Waits and deadlines are whole seconds or fractions of one: between two questions they must not be skipped over.
    for (let left = 1_000 / perSecond; left > 0; left -= 100) {
      if (clock.advance(Math.min(left, 100))) await turn();
    }
  }
  while (pending > 0) {
    clock.advance(100);
    await turn();
  }
  const total = Object.values(requests).reduce((sum, count) => sum + count, 0);
  return {
    questions,
    failures,
    requests,
    extra: total - questions,
    retries: counts.retries ?? 0,
    denied: counts.retriesDenied ?? 0,
  };
}

/** Metrics without a registry: half a million answers would spend most of their time in it. */
function countingMetrics(): { metrics: Metrics; counts: Record<string, number> } {
  const counts: Record<string, number> = {};
  const metrics = new Proxy({} as Record<string, object>, {
    get(cache, name: string) {
      cache[name] ??= {
        inc() {
          counts[name] = (counts[name] ?? 0) + 1;
        },
        observe() {},
        set() {},
        remove() {},
      };
      return cache[name];
    },
  });
  return { metrics: metrics as unknown as Metrics, counts };
}

/** A provider whose keys are chosen as those of a real one. */
function createProvider(name: string, apiKeys: readonly string[], clock: Clock, behave: Behaviour): Provider {
  const keys = createApiKeys(apiKeys, { now: clock.now });
  return {
    name,
    cooldown: keys.cooldown,
    async *stream({ model }, signal) {
      const used: string[] = [];
      for (let keyUse = keys.use(model); ; ) {
        if (keyUse) used.push(keyUse.key);
        const result = behave({ key: keyUse?.key ?? '', count: 0 });
        if (typeof result === 'number') await delay(clock, result, signal);
        keyUse?.release();
        if (!(result instanceof Error)) break;
        keyUse = keyUse?.failed(result) ? keys.another(model, used) : undefined;
        if (keyUse === undefined) throw result;
      }
      yield textPart('x');
      yield FINISH;
    },
    async close() {},
  };
}

function delay(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(ms, resolve);
    signal.addEventListener('abort', () => {
      cancel();
      reject(signal.reason);
    });
  });
}

/** A clock whose timers cost the same however many there are. `advance` returns true if one has fired. */
function simulationClock(): Clock & { advance(ms: number): boolean } {
  const timers = new Map<number, Set<() => void>>();
  let time = 0;
  return {
    now: () => time,
    after(ms, fn) {
      const at = Math.max(time + 1, Math.ceil(time + ms));
      const due = timers.get(at) ?? new Set();
      const entry = () => fn();
      timers.set(at, due.add(entry));
      return () => {
        due.delete(entry);
        if (due.size === 0 && timers.get(at) === due) timers.delete(at);
      };
    },
    advance(ms) {
      let hasFired = false;
      for (const end = time + ms; time < end; ) {
        time = Math.min(end, Math.floor(time) + 1);
        const due = timers.get(time);
        if (due === undefined) continue;
        timers.delete(time);
        for (const fire of due) {
          hasFired = true;
          fire();
        }
      }
      return hasFired;
    },
  };
}
