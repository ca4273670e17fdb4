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
  /** What `take` would throw. */
  resting(): ProviderError | undefined;
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

  const resting = (): ProviderError | undefined => {
    const waitMs = Math.ceil(Math.min(...ring.map(({ restsUntil }) => restsUntil)) - now());
    if (ring.length === 0 || waitMs <= 0) return undefined;
    if (ring.some(({ why }) => why === 'rate_limited')) {
      const init = { reason: 'keys_resting', retryable: true, retryAfterMs: waitMs };
      return new ProviderError('upstream_rate_limited', init);
    }
    return new ProviderError('upstream_rejected', { reason: 'credentials', retryable: false });
  };

  const rest = (key: Key, why: WhyResting, ms: number) => {
    key.why = why;
    key.restsUntil = Math.max(key.restsUntil, now() + Math.min(ms, PAUSE_MS.most));
  };

  /** What many calls in flight report together counts once. */
  const refuse = (key: Key) => {
    if (key.restsUntil > now()) return;
    rest(key, 'credentials', key.pauseMs);
    onResting?.('credentials', key.pauseMs === PAUSE_MS.first);
    key.pauseMs = Math.min(key.pauseMs * 2, PAUSE_MS.most);
  };

  const limit = (key: Key, fault: ProviderError): unknown => {
    rest(key, 'rate_limited', fault.retryAfterMs ?? (ring.length > 1 ? LIMIT_PAUSE_MS : 0));
    onResting?.('rate_limited', true);
    return ring.length > 1 && resting() === undefined ? fault.after(0) : fault;
  };

  return {
    resting,
    take() {
      if (ring.length === 0) return undefined;
      const [key] = ring.filter(({ restsUntil }) => restsUntil <= now()).sort((a, b) => a.calls - b.calls);
      if (key === undefined) throw resting();
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
          if (isDead(fault)) refuse(key);
          else if (fault.code === 'upstream_rate_limited') return limit(key, fault);
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
function isDead({ code, reason, retryable, upstreamStatus }: ProviderError): boolean {
  if (reason === 'billing' || (code === 'upstream_rate_limited' && !retryable)) return true;
  return reason === 'credentials' && upstreamStatus !== 403;
}
