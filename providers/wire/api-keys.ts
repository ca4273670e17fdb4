import { ProviderError, type RefusalReason } from '../errors.ts';

/** Chooses the API key of each call. Keys that a provider refuses or limits are not used during a cooldown. */

export type CooldownReason = 'credentials' | 'rate_limited';

/** The use of an API key for one request. */
export interface KeyUse {
  readonly key: string;
  /** Call if the provider has accepted the key. Resets the length of its next cooldown. */
  accepted(): void;
  /**
   * Call if the request has failed, or the answer before its first content. Starts a cooldown and returns true if the
   * provider has refused or rate-limited the key: the same request may succeed with another one.
   */
  failed(fault: unknown): boolean;
  /** Ends the use. Call once. */
  release(): void;
}

export interface ApiKeys {
  /**
   * Starts the use of the key with the fewest running calls; among equals, the least recently used one. Returns
   * undefined if no key is configured.
   * @throws ProviderError if all keys are in cooldown for this model
   */
  use(model: string): KeyUse | undefined;
  /** Starts the use of a key that is not one of `used`. Returns undefined if there is none, or all are in cooldown. */
  another(model: string, used: readonly string[]): KeyUse | undefined;
  /** Returns the error that `use` would throw now, else undefined. */
  cooldown(model: string): ProviderError | undefined;
  /**
   * Replaces the keys. A key that stays keeps its running calls and cooldowns. Running calls keep the key that they
   * have; the failure of one that was removed is not reported.
   */
  replace(keys: readonly string[]): void;
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
  /** End of the cooldown for all models: the key was refused, or has no credit. */
  cooldownUntil: number;
  /** Ends of the cooldowns after a 429, by model: providers limit each model by itself. */
  readonly modelCooldowns: Map<string, number>;
  /** Length of the cooldown after the next refusal. */
  nextCooldownMs: number;
  /** Reason of the last refusal. */
  refusal: RefusalReason | undefined;
}

/**
 * Cooldown of a refused key. Doubles with each further refusal. The maximum also bounds delays that a provider
 * requests.
 */
const COOLDOWN_MS = { initial: 5_000, max: 300_000 };
/** Cooldown after a 429 without a delay, if there are other keys. */
const RATE_LIMIT_COOLDOWN_MS = 1_000;
/** Bound of stored models: if a provider allows all models, clients choose the names. */
const MAX_MODEL_COOLDOWNS = 1_000;

/** Creates the key selection of one provider. `keys` may be empty. */
export function createApiKeys(keys: readonly string[], { now, onCooldown }: ApiKeyOptions): ApiKeys {
  /** Least recently used first. */
  let states: KeyState[] = distinct(keys).map(createState);

  const usableAt = (state: KeyState, model: string) =>
    Math.max(state.cooldownUntil, state.modelCooldowns.get(model) ?? 0);

  const cooldownError = (model: string): ProviderError | undefined => {
    const waitMs = Math.ceil(Math.min(...states.map((state) => usableAt(state, model))) - now());
    if (states.length === 0 || waitMs <= 0) return undefined;
    if (states.some(({ cooldownUntil }) => cooldownUntil <= now())) {
      const init = { reason: 'keys_in_cooldown', retryable: true, retryAfterMs: waitMs };
      return new ProviderError('upstream_rate_limited', init);
    }
    const isOutOfQuota = states.every(({ refusal }) => refusal === 'quota_exhausted');
    const refusal = isOutOfQuota ? 'quota_exhausted' : 'credentials';
    return new ProviderError('upstream_rejected', { reason: 'credentials', refusal, retryable: false });
  };

  const onKeyRefused = (state: KeyState, { refusal }: ProviderError) => {
    state.refusal = refusal;
    // Concurrent calls with one key fail together. That counts as one refusal.
    if (state.cooldownUntil > now() || !states.includes(state)) return;
    onCooldown?.('credentials', state.nextCooldownMs === COOLDOWN_MS.initial);
    state.cooldownUntil = Math.max(state.cooldownUntil, now() + Math.min(state.nextCooldownMs, COOLDOWN_MS.max));
    state.nextCooldownMs = Math.min(state.nextCooldownMs * 2, COOLDOWN_MS.max);
  };

  const onRateLimited = (state: KeyState, model: string, fault: ProviderError) => {
    if (!states.includes(state)) return;
    const { modelCooldowns } = state;
    const ms = fault.retryAfterMs ?? (states.length > 1 ? RATE_LIMIT_COOLDOWN_MS : 0);
    const until = Math.max(modelCooldowns.get(model) ?? 0, now() + Math.min(ms, COOLDOWN_MS.max));
    modelCooldowns.delete(model);
    for (const [name, end] of modelCooldowns) {
      if (end <= now() || modelCooldowns.size >= MAX_MODEL_COOLDOWNS) modelCooldowns.delete(name);
    }
    modelCooldowns.set(model, until);
    onCooldown?.('rate_limited', true);
  };

  const another = (model: string, used: readonly string[]): KeyUse | undefined => {
    const [state] = states
      .filter((candidate) => usableAt(candidate, model) <= now() && !used.includes(candidate.key))
      .sort((a, b) => a.runningCalls - b.runningCalls);
    if (state === undefined) return undefined;
    states.splice(states.indexOf(state), 1);
    states.push(state);
    state.runningCalls += 1;
    return {
      key: state.key,
      accepted() {
        state.nextCooldownMs = COOLDOWN_MS.initial;
      },
      failed(fault) {
        if (!(fault instanceof ProviderError)) return false;
        if (isKeyUnusable(fault)) onKeyRefused(state, fault);
        else if (isRateLimited(fault)) onRateLimited(state, model, fault);
        else return false;
        return true;
      },
      release() {
        state.runningCalls -= 1;
      },
    };
  };

  return {
    cooldown: cooldownError,
    another,
    use(model) {
      const keyUse = another(model, []);
      const error = keyUse === undefined ? cooldownError(model) : undefined;
      if (error) throw error;
      return keyUse;
    },
    replace(next) {
      const configured = distinct(next);
      const kept = states.filter(({ key }) => configured.includes(key));
      // A key that was never used is the least recently used one.
      const added = configured.filter((key) => !kept.some((state) => state.key === key));
      states = [...added.map(createState), ...kept];
    },
  };
}

function createState(key: string): KeyState {
  return {
    key,
    runningCalls: 0,
    cooldownUntil: 0,
    modelCooldowns: new Map(),
    nextCooldownMs: COOLDOWN_MS.initial,
    refusal: undefined,
  };
}

/** Returns the keys without repetitions: one of them could not be told from the other. */
function distinct(keys: readonly string[]): string[] {
  return [...new Set(keys)];
}

/**
 * Returns true if no call can succeed with this key: it was refused or has no credit. A 403 does not count,
 * because it often concerns the question or the model.
 */
function isKeyUnusable({ code, reason, retryable, upstreamStatus }: ProviderError): boolean {
  if (reason === 'billing' || (code === 'upstream_rate_limited' && !retryable)) return true;
  return reason === 'credentials' && upstreamStatus !== 403;
}

/** Returns true for a 429, and for the same inside a stream with status 200. */
function isRateLimited({ code, reason }: ProviderError): boolean {
  return code === 'upstream_rate_limited' || reason === 'rate_limited';
}
