import { ProviderError } from '../../providers/errors.ts';
import type { Provider } from '../../providers/types.ts';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics.ts';
import { Breaker, type BreakerState } from './breaker.ts';
import type { ModelRoute, Target } from './model-routes.ts';

/** A place at a target, held for one call. */
export interface Lease {
  /** Where the target stands in its route. */
  readonly index: number;
  readonly target: Target;
  readonly provider: Provider;
  /** The first content has come: whatever follows, it answers. */
  works(): void;
  /** Gives the place back. Once. */
  end(failed: boolean): void;
}

export interface TargetState extends Target {
  readonly state: BreakerState;
}

/** Who may be asked now: breakers of targets that fail, and how many calls each provider has. */
export interface Targets {
  /** The first target from `from` on that may be asked, and for which `fits` holds. */
  take(route: ModelRoute, from: number, fits?: (provider: Provider) => boolean): Lease | undefined;
  /** Whether one of the route's providers has room for a call. */
  hasRoom(route: ModelRoute): boolean;
  /** Why none may be asked. */
  unavailable(route: ModelRoute): ProviderError;
  /** Targets that were asked at least once. */
  states(): TargetState[];
}

/** When to come back to providers that are all busy. */
const BUSY_MS = 1_000;
/** Names come from outside where a provider is open to all models, so that breakers have a bound. */
const MOST_BREAKERS = 10_000;

export function createTargets(
  providers: ReadonlyMap<string, Provider>,
  mostCalls: (provider: string) => number,
  clock: Clock,
  metrics: Metrics,
): Targets {
  const breakers = new Map<string, { readonly target: Target; readonly breaker: Breaker }>();
  const calls = new Map<string, number>();
  const callsOf = (name: string) => calls.get(name) ?? 0;
  const isFull = ({ provider }: Target) => callsOf(provider) >= mostCalls(provider);

  const breakerOf = (target: Target): Breaker => {
    const key = `${target.provider}/${target.model}`;
    const known = breakers.get(key);
    if (known) return known.breaker;
    const labels = { provider: target.provider, model: target.model };
    const breaker = new Breaker(clock, (state) => metrics.breakerState.set(labels, LEVELS[state]));
    if (breakers.size < MOST_BREAKERS) breakers.set(key, { target, breaker });
    return breaker;
  };

  const lease = (target: Target, index: number, provider: Provider, breaker: Breaker): Lease => {
    calls.set(target.provider, callsOf(target.provider) + 1);
    return {
      index,
      target,
      provider,
      works: () => breaker.succeeded(),
      end(failed) {
        calls.set(target.provider, callsOf(target.provider) - 1);
        if (failed) breaker.failed();
        else breaker.released();
      },
    };
  };

  return {
    take(route, from, fits = () => true) {
      for (let index = from; index < route.targets.length; index++) {
        const target = route.targets[index] as Target;
        const provider = providers.get(target.provider);
        if (provider === undefined) throw new Error(`route ${route.name} names no provider`);
        if (!fits(provider) || isFull(target)) continue;
        const breaker = breakerOf(target);
        if (breaker.admit()) return lease(target, index, provider, breaker);
      }
      return undefined;
    },
    hasRoom: ({ targets }) => targets.some((target) => !isFull(target)),
    unavailable({ targets }) {
      if (targets.every(isFull)) {
        const init = { reason: 'saturated', retryable: true, retryAfterMs: BUSY_MS };
        return new ProviderError('upstream_rate_limited', init);
      }
      const waits = targets.map((target) => breakerOf(target).opensInMs);
      const retryAfterMs = Math.max(BUSY_MS, Math.min(...waits));
      return new ProviderError('upstream_failed', { reason: 'circuit_open', retryable: true, retryAfterMs });
    },
    states: () => [...breakers.values()].map(({ target, breaker }) => ({ ...target, state: breaker.state })),
  };
}

const LEVELS: Readonly<Record<BreakerState, number>> = { closed: 0, half_open: 1, open: 2 };
