import { ProviderError } from '../../providers/errors.ts';
import type { Provider } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { Metrics } from '../metrics/index.ts';
import { Breaker, type BreakerChange, type BreakerState } from './breaker.ts';

/** Reserved capacity of a target for one call. */
export interface TargetSlot {
  /** Index of the target in its route. */
  readonly index: number;
  readonly target: Target;
  readonly provider: Provider;
  /** Call when the first part has arrived. The target then counts as healthy, even if the call fails later. */
  succeeded(): void;
  /** Call if the target has reached a rate limit. For a short time, other targets come first. */
  rateLimited(): void;
  /** Releases the slot. Call once. `hasFailed` counts against the target's circuit breaker. */
  release(hasFailed: boolean): void;
  /** Returns true if the target may be retried: its circuit breaker has not opened. */
  canRetry(): boolean;
  /** Returns the milliseconds until a key can be used; infinite if the provider has refused all of them. */
  cooldownMs(): number;
}

export interface TargetState extends Target {
  readonly state: BreakerState;
}

/** Returns true if the target may be called. */
export type IsEligible = (provider: Provider, target: Target) => boolean;

/** Question for which a target is chosen. */
export interface Choice {
  /** Index of the first target to consider; 0 if absent. */
  readonly from?: number;
  /** Owner of the question; see `Breaker`. */
  readonly owner?: string;
  readonly isEligible?: IsEligible;
}

/** Chooses targets by circuit breaker, key cooldown, rate limit and concurrent calls. */
export interface Targets {
  /** Reserves the first usable target. One that has just reached a rate limit comes behind all others. */
  reserve(route: ModelRoute, choice?: Choice): TargetSlot | undefined;
  /** Returns true if `reserve` would reserve a target. */
  isFree(route: ModelRoute, choice?: Choice): boolean;
  /** Returns the provider of a target. */
  providerOf(target: Target, route: ModelRoute): Provider;
  /** Returns true if one of the route's providers can take another call. */
  hasCapacity(route: ModelRoute): boolean;
  /** Returns the reason why no target can be reserved. */
  unavailableError(route: ModelRoute, owner?: string): Error;
  /** Returns the targets that have failed since their last success. */
  states(): TargetState[];
  /** Forgets the state of all targets that are not in these routes. */
  retain(routes: readonly ModelRoute[]): void;
}

/** Least `Retry-After` while all targets are busy. */
const MIN_RETRY_MS = 1_000;
/** Time during which a target that has reached a rate limit comes behind the other targets of a route. */
const RATE_LIMIT_PAUSE_MS = 1_000;

interface Health {
  /** Target in metrics and in the list of states. */
  readonly target: Target;
  readonly breaker: Breaker;
  rateLimitedUntil: number;
}

export interface TargetsOptions {
  readonly providers: ReadonlyMap<string, Provider>;
  /** Returns how many calls a provider may have at the same time. */
  maxConcurrent(provider: string): number;
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** Called with each change of a circuit breaker. Must not throw. */
  onBreakerChange?(target: Target, change: BreakerChange): void;
}

export function createTargets({ providers, maxConcurrent, clock, metrics, ...events }: TargetsOptions): Targets {
  const healthByName = new Map<string, Health>();
  const calls = new Map<string, number>();
  const runningCalls = (name: string) => calls.get(name) ?? 0;
  const isFull = ({ provider }: Target) => runningCalls(provider) >= maxConcurrent(provider);

  const providerOf = ({ provider: name }: Target, route: ModelRoute): Provider => {
    const provider = providers.get(name);
    if (provider === undefined) throw new Error(`route ${route.name} names an unknown provider`);
    return provider;
  };

  const createHealth = (target: Target): Health => {
    const breaker = new Breaker(clock, (change) => {
      // A call of a target that is no longer configured may still run.
      if (healthByName.get(nameOf(target)) !== health) return;
      const { state } = breaker;
      if (state === 'closed') metrics.breakerState.remove(target);
      else metrics.breakerState.set(target, STATE_VALUES[state]);
      events.onBreakerChange?.(target, change);
    });
    const health: Health = { target, breaker, rateLimitedUntil: 0 };
    return health;
  };

  const healthOf = (target: Target, route: ModelRoute): Health => {
    const named = healthTarget(target, route);
    let health = healthByName.get(nameOf(named));
    if (health === undefined) {
      health = createHealth(named);
      healthByName.set(nameOf(named), health);
    }
    return health;
  };

  /** Returns the index of the target to call; undefined if none is usable. */
  const find = (
    route: ModelRoute,
    { from = 0, owner = '', isEligible = () => true }: Choice = {},
  ): number | undefined => {
    let limited: number | undefined;
    for (let index = from; index < route.targets.length; index++) {
      const target = route.targets[index] as Target;
      const provider = providerOf(target, route);
      if (!isEligible(provider, target) || isFull(target) || provider.cooldown?.(target.model) !== undefined) continue;
      const { breaker, rateLimitedUntil } = healthOf(target, route);
      if (breaker.retryInMs(owner) > 0) continue;
      if (rateLimitedUntil <= clock.now()) return index;
      limited ??= index;
    }
    return limited;
  };

  return {
    providerOf,
    isFree: (route, choice) => find(route, choice) !== undefined,
    reserve(route, choice) {
      const index = find(route, choice);
      const target = index === undefined ? undefined : route.targets[index];
      if (index === undefined || target === undefined) return undefined;
      const owner = choice?.owner ?? '';
      const health = healthOf(target, route);
      const admission = health.breaker.admit(owner);
      if (admission === undefined) return undefined;
      calls.set(target.provider, runningCalls(target.provider) + 1);
      return {
        index,
        target,
        provider: providerOf(target, route),
        succeeded: () => health.breaker.succeeded(admission),
        rateLimited() {
          health.rateLimitedUntil = clock.now() + RATE_LIMIT_PAUSE_MS;
        },
        release(hasFailed) {
          calls.set(target.provider, runningCalls(target.provider) - 1);
          if (hasFailed) health.breaker.failed(admission);
        },
        canRetry: () => health.breaker.isClosedFor(owner),
        cooldownMs() {
          const error = providerOf(target, route).cooldown?.(target.model);
          return error === undefined ? 0 : (retryableError(error)?.retryAfterMs ?? Number.POSITIVE_INFINITY);
        },
      };
    },
    hasCapacity: ({ targets }) => targets.some((target) => !isFull(target)),
    unavailableError(route, owner = '') {
      const { targets } = route;
      if (targets.every(isFull)) {
        const init = { reason: 'saturated', retryable: true, retryAfterMs: MIN_RETRY_MS };
        return new ProviderError('upstream_rate_limited', init);
      }
      // What passes by itself comes before what an operator has to change.
      const cooldowns = targets.map((target) => providerOf(target, route).cooldown?.(target.model));
      const others = targets.filter((target, index) => cooldowns[index] === undefined && !isFull(target));
      const error = cooldowns.find(retryableError) ?? (others.length === 0 ? cooldowns.find(Boolean) : undefined);
      if (error) return error;
      const waits = others.map((target) => healthOf(target, route).breaker.retryInMs(owner));
      const retryAfterMs = Math.max(MIN_RETRY_MS, Math.min(...waits));
      return new ProviderError('upstream_failed', { reason: 'circuit_open', retryable: true, retryAfterMs });
    },
    states: () =>
      [...healthByName.values()]
        .filter(({ breaker }) => breaker.hasFailed)
        .map(({ target, breaker }) => ({ ...target, state: breaker.state })),
    retain(routes) {
      const names = new Set(
        routes.flatMap((route) => route.targets.map((target) => nameOf(healthTarget(target, route)))),
      );
      for (const [name, { breaker }] of healthByName) {
        if (names.has(name)) continue;
        breaker.remove();
        healthByName.delete(name);
      }
    },
  };
}

function retryableError(error: Error | undefined): ProviderError | undefined {
  return error instanceof ProviderError && error.retryable ? error : undefined;
}

const STATE_VALUES: Readonly<Record<BreakerState, number>> = { closed: 0, half_open: 1, open: 2 };

/** Returns the target that stands for this one: clients choose the model names of open providers, which share one. */
function healthTarget({ provider, model }: Target, { name, label }: ModelRoute) {
  return { provider, model: name === label ? model : '*' };
}

function nameOf({ provider, model }: Target): string {
  return `${provider}/${model}`;
}
