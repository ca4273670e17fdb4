import { ProviderError } from '../../providers/errors.ts';
import type { Provider } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { Metrics } from '../metrics/index.ts';
import { type Admission, Breaker, type BreakerState } from './breaker.ts';

/** Reserved capacity of a target for one call. */
export interface TargetSlot {
  /** Index of the target in its route. */
  readonly index: number;
  readonly target: Target;
  readonly provider: Provider;
  /** Call when the first part has arrived. The target then counts as healthy, even if the call fails later. */
  succeeded(): void;
  /** Releases the slot. Call once. `hasFailed` counts against the target's circuit breaker. */
  release(hasFailed: boolean): void;
  /** Returns true if the target may be retried: its circuit breaker has not opened. */
  canRetry(): boolean;
}

export interface TargetState extends Target {
  readonly state: BreakerState;
}

/** Returns true if the target may be called. */
export type IsEligible = (provider: Provider, target: Target) => boolean;

/** Chooses targets by circuit breaker, key cooldown and concurrent calls. */
export interface Targets {
  /** Reserves the first usable target at or after index `from` whose provider is eligible. */
  reserve(route: ModelRoute, from: number, isEligible?: IsEligible): TargetSlot | undefined;
  /** Returns the provider of a target. */
  providerOf(target: Target, route: ModelRoute): Provider;
  /** Returns true if one of the route's providers can take another call. */
  hasCapacity(route: ModelRoute): boolean;
  /** Returns the reason why no target can be reserved. */
  unavailableError(route: ModelRoute): Error;
  /** Returns the targets that have failed since their last success. */
  states(): TargetState[];
}

/** Least `Retry-After` while all targets are busy. */
const MIN_RETRY_MS = 1_000;
/** Bound of stored breakers: if a provider allows all models, clients choose the names. */
const MAX_BREAKERS = 10_000;

/** The call began before the breaker of its target existed. */
const BEFORE_BREAKER: Admission = { epoch: 0 };

export interface TargetsOptions {
  readonly providers: ReadonlyMap<string, Provider>;
  /** Returns how many calls a provider may have at the same time. */
  maxConcurrent(provider: string): number;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

export function createTargets({ providers, maxConcurrent, clock, metrics }: TargetsOptions): Targets {
  /** Breakers exist from a target's first failure to its next success. */
  const breakers = new Map<string, { readonly target: Target; readonly breaker: Breaker }>();
  const calls = new Map<string, number>();
  const runningCalls = (name: string) => calls.get(name) ?? 0;
  const isFull = ({ provider }: Target) => runningCalls(provider) >= maxConcurrent(provider);
  const keyOf = ({ provider, model }: Target) => `${provider}/${model}`;
  const breakerOf = (target: Target) => breakers.get(keyOf(target))?.breaker;
  const labelsOf = ({ provider, model }: Target) => ({ provider, model });

  const providerOf = ({ provider: name }: Target, route: ModelRoute): Provider => {
    const provider = providers.get(name);
    if (provider === undefined) throw new Error(`route ${route.name} names an unknown provider`);
    return provider;
  };

  const recordFailure = (target: Target, admission: Admission | undefined) => {
    let breaker = breakerOf(target);
    if (breaker === undefined) {
      if (breakers.size >= MAX_BREAKERS) return;
      breaker = new Breaker(clock, (state) => metrics.breakerState.set(labelsOf(target), STATE_VALUES[state]));
      breakers.set(keyOf(target), { target, breaker });
    }
    breaker.failed(admission ?? BEFORE_BREAKER);
  };

  const recordSuccess = (target: Target, admission: Admission | undefined) => {
    const breaker = breakerOf(target);
    if (breaker === undefined) return;
    breaker.succeeded(admission ?? BEFORE_BREAKER);
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
        if (hasFailed) recordFailure(target, admission);
        else if (admission) breakerOf(target)?.released(admission);
      },
      canRetry: () => (breakerOf(target)?.state ?? 'closed') === 'closed',
    };
  };

  return {
    providerOf,
    reserve(route, from, isEligible = () => true) {
      for (let index = from; index < route.targets.length; index++) {
        const target = route.targets[index] as Target;
        const provider = providerOf(target, route);
        if (!isEligible(provider, target) || isFull(target) || provider.cooldown?.(target.model) !== undefined)
          continue;
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
        const error = providerOf(target, route).cooldown?.(target.model);
        if (error) return error;
      }
      const waits = targets.map((target) => breakerOf(target)?.retryInMs ?? 0);
      const retryAfterMs = Math.max(MIN_RETRY_MS, Math.min(...waits));
      return new ProviderError('upstream_failed', { reason: 'circuit_open', retryable: true, retryAfterMs });
    },
    states: () => [...breakers.values()].map(({ target, breaker }) => ({ ...target, state: breaker.state })),
  };
}

const STATE_VALUES: Readonly<Record<BreakerState, number>> = { closed: 0, half_open: 1, open: 2 };
