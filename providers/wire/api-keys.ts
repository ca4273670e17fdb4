import { ProviderError } from '../errors.ts';

/** Which of a provider's keys the next call takes, and which of them rest. */

export type WhyResting = 'credentials' | 'rate_limited';

export interface KeyLease {
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
  take(): KeyLease | undefined;
}

export interface ApiKeyOptions {
  /** Monotonic milliseconds. */
  now(): number;
  /** A key was laid aside; `first` where it was in use until now. */
  onResting?: ((why: WhyResting, first: boolean) => void) | undefined;
}

interface Key {
  readonly key: string;
  calls: number;
  restsUntil: number;
  why: WhyResting;
  /** How long it rests when it is refused the next time. */
  pauseMs: number;
}

/** A refused key is tried again after this, and after twice as long each time, up to the most. */
const PAUSE_MS = { first: 5_000, most: 300_000 };
/** Where a provider says 429 and not for how long, its other keys are used for so long. */
const LIMIT_PAUSE_MS = 1_000;

/** The key with the fewest calls, the one that waited longest among equals. */
export function createApiKeys(keys: readonly string[], { now, onResting }: ApiKeyOptions): ApiKeys {
  const ring: Key[] = keys.map((key) => ({
    key,
    calls: 0,
    restsUntil: 0,
    why: 'credentials',
    pauseMs: PAUSE_MS.first,
  }));

  const freeInMs = () => Math.max(0, Math.min(...ring.map(({ restsUntil }) => restsUntil)) - now());

  const allRest = () => {
    const retryAfterMs = freeInMs();
    const limited = ring.some(({ why }) => why === 'rate_limited');
    if (limited)
      return new ProviderError('upstream_rate_limited', { reason: 'keys_resting', retryable: true, retryAfterMs });
    return new ProviderError('upstream_rejected', { reason: 'credentials', retryable: false });
  };

  const rest = (key: Key, why: WhyResting, ms: number) => {
    key.why = why;
    key.restsUntil = now() + ms;
    onResting?.(why, key.pauseMs === PAUSE_MS.first);
  };

  return {
    take() {
      if (ring.length === 0) return undefined;
      const free = ring.filter(({ restsUntil }) => restsUntil <= now());
      const [key] = free.sort((a, b) => a.calls - b.calls);
      if (key === undefined) throw allRest();
      ring.splice(ring.indexOf(key), 1);
      ring.push(key);
      key.calls += 1;
      return {
        key: key.key,
        accepted() {
          key.pauseMs = PAUSE_MS.first;
        },
        failed(fault) {
          if (!(fault instanceof ProviderError)) return fault;
          if (fault.reason === 'credentials') {
            rest(key, 'credentials', key.pauseMs);
            key.pauseMs = Math.min(key.pauseMs * 2, PAUSE_MS.most);
          } else if (fault.code === 'upstream_rate_limited') {
            rest(key, 'rate_limited', fault.retryAfterMs ?? (ring.length > 1 ? LIMIT_PAUSE_MS : 0));
            if (fault.retryable && ring.length > 1 && freeInMs() === 0) return fault.after(0);
          }
          return fault;
        },
        release() {
          key.calls -= 1;
        },
      };
    },
  };
}
