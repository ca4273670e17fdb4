import { ProviderError } from '../errors.ts';

/** Chooses the API key of each call. Keys that a provider refuses or limits are not used during a cooldown. */

export type CooldownReason = 'credentials' | 'rate_limited';

/** The use of an API key for one call. */
export interface KeyUse {
  readonly key: string;
  /** Call if the provider has accepted the key. Resets the length of its next cooldown. */
  accepted(): void;
  /**
   * Call if the call has failed. Starts a cooldown if the provider has refused or rate-limited the key. Returns
   * the error to throw: `fault`, or a copy with `retryAfterMs` 0 if another key can be used immediately.
   */
  failed(fault: unknown): unknown;
  /** Ends the use. Call once. */
  release(): void;
}

export interface ApiKeys {
  /**
   * Starts the use of the key with the fewest running calls; among equals, the least recently used one. Returns
   * undefined if no key is configured.
   * @throws ProviderError if all keys are in cooldown
   */
  use(): KeyUse | undefined;
  /** Returns the error that `use` would throw now, else undefined. */
  cooldown(): ProviderError | undefined;
}

export interface ApiKeyOptions {
  /** Monotonic milliseconds. */
  now(): number;
  /**
   * Called when a cooldown starts. `isFirst` is false for a key that was refused before and not accepted since.
   */
  onCooldown?: ((reason: CooldownReason, isFirst: boolean) => void) | undefined;
}

interface KeyState {
  readonly key: string;
  runningCalls: number;
  cooldownUntil: number;
  cooldownReason: CooldownReason;
  /** Length of the cooldown after the next refusal. */
  nextCooldownMs: number;
}

/**
 * Cooldown of a refused key. Doubles with each further refusal. The maximum also bounds delays that a provider
 * requests.
 */
const COOLDOWN_MS = { initial: 5_000, max: 300_000 };
/** Cooldown after a 429 without a delay, if there are other keys. */
const RATE_LIMIT_COOLDOWN_MS = 1_000;

/** Creates the key selection of one provider. `keys` may be empty. */
export function createApiKeys(keys: readonly string[], { now, onCooldown }: ApiKeyOptions): ApiKeys {
  /** Least recently used first. */
  const states: KeyState[] = keys.map((key) => ({
    key,
    runningCalls: 0,
    cooldownUntil: 0,
    cooldownReason: 'credentials',
    nextCooldownMs: COOLDOWN_MS.initial,
  }));

  const cooldownError = (): ProviderError | undefined => {
    const waitMs = Math.ceil(Math.min(...states.map(({ cooldownUntil }) => cooldownUntil)) - now());
    if (states.length === 0 || waitMs <= 0) return undefined;
    if (states.some(({ cooldownReason }) => cooldownReason === 'rate_limited')) {
      const init = { reason: 'keys_in_cooldown', retryable: true, retryAfterMs: waitMs };
      return new ProviderError('upstream_rate_limited', init);
    }
    return new ProviderError('upstream_rejected', { reason: 'credentials', retryable: false });
  };

  const startCooldown = (state: KeyState, reason: CooldownReason, ms: number) => {
    state.cooldownReason = reason;
    state.cooldownUntil = Math.max(state.cooldownUntil, now() + Math.min(ms, COOLDOWN_MS.max));
  };

  /** Starts a cooldown, unless one is running: refusals of concurrent calls count once. */
  const onKeyRefused = (state: KeyState) => {
    if (state.cooldownUntil > now()) return;
    startCooldown(state, 'credentials', state.nextCooldownMs);
    onCooldown?.('credentials', state.nextCooldownMs === COOLDOWN_MS.initial);
    state.nextCooldownMs = Math.min(state.nextCooldownMs * 2, COOLDOWN_MS.max);
  };

  const onRateLimited = (state: KeyState, fault: ProviderError): unknown => {
    startCooldown(state, 'rate_limited', fault.retryAfterMs ?? (states.length > 1 ? RATE_LIMIT_COOLDOWN_MS : 0));
    onCooldown?.('rate_limited', true);
    return states.length > 1 && cooldownError() === undefined ? fault.withRetryAfter(0) : fault;
  };

  return {
    cooldown: cooldownError,
    use() {
      if (states.length === 0) return undefined;
      const [state] = states
        .filter(({ cooldownUntil }) => cooldownUntil <= now())
        .sort((a, b) => a.runningCalls - b.runningCalls);
      if (state === undefined) throw cooldownError();
      states.splice(states.indexOf(state), 1);
      states.push(state);
      state.runningCalls += 1;
      return {
        key: state.key,
        accepted() {
          state.nextCooldownMs = COOLDOWN_MS.initial;
        },
        failed(fault) {
          if (!(fault instanceof ProviderError)) return fault;
          if (isKeyUnusable(fault)) onKeyRefused(state);
          else if (fault.code === 'upstream_rate_limited') return onRateLimited(state, fault);
          return fault;
        },
        release() {
          state.runningCalls -= 1;
        },
      };
    },
  };
}

/**
 * Returns true if no call can succeed with this key: it was refused or has no credit. A 403 does not count,
 * because it often concerns the question or the model.
 */
function isKeyUnusable({ code, reason, retryable, upstreamStatus }: ProviderError): boolean {
  if (reason === 'billing' || (code === 'upstream_rate_limited' && !retryable)) return true;
  return reason === 'credentials' && upstreamStatus !== 403;
}
