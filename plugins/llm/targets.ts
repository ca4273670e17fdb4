import { ProviderError } from '../../providers/errors.ts';
import type { Provider } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { Metrics } from '../metrics/index.ts';
import { type Admission, Breaker, type BreakerState } from './breaker.ts';

/** A place at a target, held for one call. */
export interface TargetSlot {
  /** Where the target stands in its route. */
  readonly index: number;
  readonly target: Target;
  readonly provider: Provider;
  /** The first content has come: whatever follows, it answers. */
  succeeded(): void;
  /** Gives the place back. Once. */
  release(recordFailure: boolean): void;
  /** Whether the same target may be asked again: its breaker has not opened. */
  canRetry(): boolean;
}

export interface TargetState extends Target {
  readonly state: BreakerState;
}

/** Who may be asked now: breakers of targets that fail, keys that rest, calls that each provider has. */
export interface Targets {
  /** The first target from `from` on that may be asked, and for which `fits` holds. */
  reserve(route: ModelRoute, from: number, fits?: (provider: Provider) => boolean): TargetSlot | undefined;
  /** Whether one of the route's providers has room for a call. */
  hasCapacity(route: ModelRoute): boolean;
  /** Why none may be asked. */
  unavailableError(route: ModelRoute): Error;
  /** Targets whose last call failed. */
  states(): TargetState[];
}

/** When to come back to providers that are all busy. */
const MIN_RETRY_MS = 1_000;
/** Names come from outside where a provider is open to all models, so that breakers have a bound. */
const MAX_BREAKERS = 10_000;

export function createTargets(
  providers: ReadonlyMap<string, Provider>,
  maxConcurrent: (provider: string) => number,
  clock: Clock,
  metrics: Metrics,
): Targets {
  /** Kept from a target's first failure to its next success. */
  const breakers = new Map<string, { readonly target: Target; readonly breaker: Breaker }>();
  const calls = new Map<string, number>();
  const runningCalls = (name: string) => calls.get(name) ?? 0;
  const isFull = ({ provider }: Target) => runningCalls(provider) >= maxConcurrent(provider);
  const keyOf = ({ provider, model }: Target) => `${provider}/${model}`;
  const breakerOf = (target: Target) => breakers.get(keyOf(target))?.breaker;
  const labelsOf = ({ provider, model }: Target) => ({ provider, model });

  const providerOf = ({ provider: name }: Target, route: ModelRoute): Provider => {
    const provider = providers.get(name);
    if (provider === undefined) throw new Error(`route ${route.name} names no provider`);
    return provider;
  };

  const failed = (target: Target, admission: Admission | undefined) => {
    let breaker = breakerOf(target);
    if (breaker === undefined) {
      if (breakers.size >= MAX_BREAKERS) return;
      breaker = new Breaker(clock, (state) => metrics.breakerState.set(labelsOf(target), STATE_VALUES[state]));
      breakers.set(keyOf(target), { target, breaker });
    }
    breaker.failed(admission ?? { epoch: 0 });
  };

  const recordSuccess = (target: Target, admission: Admission | undefined) => {
    const breaker = breakerOf(target);
    if (breaker === undefined) return;
    breaker.succeeded(admission ?? { epoch: 0 });
    if (breaker.state !== 'closed') return;
    breakers.delete(keyOf(target));
    metrics.breakerState.remove(labelsOf(target));
  };

  const createSlot = (
    target: Target,
    index: number,
    provider: Provider,
    admission: Admission | undefined,
  ): TargetSlot => {
    calls.set(target.provider, runningCalls(target.provider) + 1);
    return {
      index,
      target,
      provider,
      succeeded: () => recordSuccess(target, admission),
      release(hasFailed) {
        calls.set(target.provider, runningCalls(target.provider) - 1);
        if (hasFailed) failed(target, admission);
        else if (admission) breakerOf(target)?.released(admission);
      },
      canRetry: () => (breakerOf(target)?.state ?? 'closed') === 'closed',
    };
  };

  return {
    reserve(route, from, fits = () => true) {
      for (let index = from; index < route.targets.length; index++) {
        const target = route.targets[index] as Target;
        const provider = providerOf(target, route);
        if (!fits(provider) || isFull(target) || provider.cooldown?.() !== undefined) continue;
        const breaker = breakerOf(target);
        const admission = breaker?.admit();
        if (breaker === undefined || admission) return createSlot(target, index, provider, admission);
      }
      return undefined;
    },
    hasCapacity: ({ targets }) => targets.some((target) => !isFull(target)),
    unavailableError(route) {
      const { targets } = route;
      if (targets.every(isFull)) {
        const init = { reason: 'saturated', retryable: true, retryAfterMs: MIN_RETRY_MS };
        return new ProviderError('upstream_rate_limited', init);
      }
      for (const target of targets) {
        const resting = providerOf(target, route).cooldown?.();
        if (resting) return resting;
      }
      const waits = targets.map((target) => breakerOf(target)?.retryInMs ?? 0);
      const retryAfterMs = Math.max(MIN_RETRY_MS, Math.min(...waits));
      return new ProviderError('upstream_failed', { reason: 'circuit_open', retryable: true, retryAfterMs });
    },
    states: () => [...breakers.values()].map(({ target, breaker }) => ({ ...target, state: breaker.state })),
  };
}

const STATE_VALUES: Readonly<Record<BreakerState, number>> = { closed: 0, half_open: 1, open: 2 };
