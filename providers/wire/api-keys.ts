import { ProviderError } from '../errors.ts';

/** Which of a provider's keys the next call takes, and which of them rest. */

export type CooldownReason = 'credentials' | 'rate_limited';

export interface KeyUse {
  readonly key: string;
  /** The provider has taken the key. */
  accepted(): void;
  /**
   * The call failed; a key that was refused, or has reached its limit, rests. Gives the fault back, or
   * one that says "at once" where another key may be used.
   */
  failed(fault: unknown): unknown;
  /** The call is over. Once. */
  release(): void;
}

export interface ApiKeys {
  /** @throws ProviderError while every key rests */
  use(): KeyUse | undefined;
  /** What `take` would throw. */
  cooldown(): ProviderError | undefined;
}

export interface ApiKeyOptions {
  /** Monotonic milliseconds. */
  now(): number;
  /** A key was laid aside; `first` where it was in use until now. */
  onCooldown?: ((cooldownReason: CooldownReason, first: boolean) => void) | undefined;
}

interface Key {
  readonly key: string;
  calls: number;
  cooldownUntil: number;
  cooldownReason: CooldownReason;
  /** How long it rests when it is refused the next time. */
  nextCooldownMs: number;
}

/** A refused key is tried again after this, and after twice as long each time, up to the most. */
const COOLDOWN_MS = { first: 5_000, most: 300_000 };
/** Where a provider says 429 and not for how long, its other keys are used for so long. */
const RATE_LIMIT_COOLDOWN_MS = 1_000;

/** The key with the fewest calls, the one that waited longest among equals. */
export function createApiKeys(keys: readonly string[], { now, onCooldown }: ApiKeyOptions): ApiKeys {
  const ring: Key[] = keys.map((key) => ({
    key,
    calls: 0,
    cooldownUntil: 0,
    cooldownReason: 'credentials',
    nextCooldownMs: COOLDOWN_MS.first,
  }));

  const allInCooldown = (): ProviderError | undefined => {
    const waitMs = Math.ceil(Math.min(...ring.map(({ cooldownUntil }) => cooldownUntil)) - now());
    if (ring.length === 0 || waitMs <= 0) return undefined;
    if (ring.some(({ cooldownReason }) => cooldownReason === 'rate_limited')) {
      const init = { reason: 'keys_resting', retryable: true, retryAfterMs: waitMs };
      return new ProviderError('upstream_rate_limited', init);
    }
    return new ProviderError('upstream_rejected', { reason: 'credentials', retryable: false });
  };

  const startCooldown = (key: Key, why: CooldownReason, ms: number) => {
    key.cooldownReason = why;
    key.cooldownUntil = Math.max(key.cooldownUntil, now() + Math.min(ms, COOLDOWN_MS.most));
  };

  /** What many calls in flight report together counts once. */
  const onKeyRefused = (key: Key) => {
    if (key.cooldownUntil > now()) return;
    startCooldown(key, 'credentials', key.nextCooldownMs);
    onCooldown?.('credentials', key.nextCooldownMs === COOLDOWN_MS.first);
    key.nextCooldownMs = Math.min(key.nextCooldownMs * 2, COOLDOWN_MS.most);
  };

  const onRateLimited = (key: Key, fault: ProviderError): unknown => {
    startCooldown(key, 'rate_limited', fault.retryAfterMs ?? (ring.length > 1 ? RATE_LIMIT_COOLDOWN_MS : 0));
    onCooldown?.('rate_limited', true);
    return ring.length > 1 && allInCooldown() === undefined ? fault.withRetryAfter(0) : fault;
  };

  return {
    cooldown: allInCooldown,
    use() {
      if (ring.length === 0) return undefined;
      const [key] = ring.filter(({ cooldownUntil }) => cooldownUntil <= now()).sort((a, b) => a.calls - b.calls);
      if (key === undefined) throw allInCooldown();
      ring.splice(ring.indexOf(key), 1);
      ring.push(key);
      key.calls += 1;
      return {
        key: key.key,
        accepted() {
          key.nextCooldownMs = COOLDOWN_MS.first;
        },
        failed(fault) {
          if (!(fault instanceof ProviderError)) return fault;
          if (isKeyUnusable(fault)) onKeyRefused(key);
          else if (fault.code === 'upstream_rate_limited') return onRateLimited(key, fault);
          return fault;
        },
        release() {
          key.calls -= 1;
        },
      };
    },
  };
}

/**
 * Whether the key itself is of no use: refused, or out of money. A 403 is as often about the question
 * or the model.
 */
function isKeyUnusable({ code, reason, retryable, upstreamStatus }: ProviderError): boolean {
  if (reason === 'billing' || (code === 'upstream_rate_limited' && !retryable)) return true;
  return reason === 'credentials' && upstreamStatus !== 403;
}
