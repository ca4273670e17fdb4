import type { Cluster } from '../redis/index.ts';
import { loadScript, runScript } from '../redis/script.ts';

/**
 * Limits tokens per minute and owner, across all replicas. The tokens of an answer are known only at its end, so the
 * use of an owner may exceed the limit. Every minute pays off as many tokens as the limit, and until then the owner
 * gets no more.
 */
export interface TokenLimiter {
  /** Charges tokens, at most `limit`, if they fit into the limit of the owner. */
  charge(owner: string, limit: number, tokens: number): Promise<Charge>;
}

export interface Charge {
  readonly passed: boolean;
  /** Milliseconds until the tokens fit; 0 if they were charged. */
  readonly retryAfterMs: number;
  /**
   * Charges more tokens, even beyond the limit, or gives negative ones back. Tokens are given back only where they
   * were charged: in this process, or in Redis.
   */
  adjust(tokens: number): void;
}

export interface TokenLimiterOptions {
  readonly cluster: Cluster | undefined;
  readonly expectedReplicas: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
}

const MINUTE_MS = 60_000;
const CHARGE = loadScript(new URL('./scripts/charge-tokens.lua', import.meta.url));

export function createTokenLimiter({ cluster, expectedReplicas, onDegraded }: TokenLimiterOptions): TokenLimiter {
  const local = new LocalUse();
  const localLimit = (limit: number) => (cluster === undefined ? limit : Math.ceil(limit / expectedReplicas));

  const chargeLocally = (owner: string, limit: number, tokens: number): Charge => {
    const share = localLimit(limit);
    const retryAfterMs = local.charge(owner, share, tokens, true);
    return {
      passed: retryAfterMs === 0,
      retryAfterMs,
      adjust: (more) => void local.charge(owner, share, more, false),
    };
  };

  const chargeShared = async (
    { connection, key }: Cluster,
    owner: string,
    limit: number,
    tokens: number,
    isStrict: boolean,
  ): Promise<readonly [charged: number, retryAfterMs: number]> => {
    const args = [limit, tokens, isStrict ? 1 : 0];
    const reply = await connection.run((redis) => runScript(redis, CHARGE, [key('limit', 'tokens', owner)], args));
    return reply as [number, number];
  };

  return {
    async charge(owner, limit, tokens) {
      if (cluster === undefined) return chargeLocally(owner, limit, tokens);
      try {
        const [charged, retryAfterMs] = await chargeShared(cluster, owner, limit, tokens, true);
        const adjust = (more: number) => {
          chargeShared(cluster, owner, limit, more, false).catch(() => {
            if (more > 0) local.charge(owner, localLimit(limit), more, false);
          });
        };
        return { passed: charged === 1, retryAfterMs, adjust };
      } catch {
        onDegraded();
        return chargeLocally(owner, limit, tokens);
      }
    },
  };
}

interface Use {
  /** Used tokens that are not paid off. */
  readonly used: number;
  /** End of the current minute. */
  readonly ends: number;
  readonly limit: number;
}

/** Number of owners at which those without a debt are removed for the first time. */
const MIN_SWEEP_SIZE = 1_000;

/** The use of all owners in this process. Does what `charge-tokens.lua` does. */
class LocalUse {
  readonly #byOwner = new Map<string, Use>();
  #sweepSize = MIN_SWEEP_SIZE;

  /** Charges tokens and returns 0, or returns the milliseconds until they fit. */
  charge(owner: string, limit: number, tokens: number, isStrict: boolean): number {
    const now = Date.now();
    const { used, ends } = currentUse(this.#byOwner.get(owner), limit, now);
    const excess = used + tokens - limit;
    const isCharged = !isStrict || excess <= 0;
    this.#byOwner.set(owner, { used: isCharged ? Math.max(0, used + tokens) : used, ends, limit });
    if (this.#byOwner.size >= this.#sweepSize) this.#sweep(now);
    return isCharged ? 0 : ends - now + (Math.ceil(excess / limit) - 1) * MINUTE_MS;
  }

  /** Removes owners whose use is paid off. */
  #sweep(now: number): void {
    for (const [owner, use] of this.#byOwner) {
      if (currentUse(use, use.limit, now).used === 0) this.#byOwner.delete(owner);
    }
    this.#sweepSize = Math.max(MIN_SWEEP_SIZE, this.#byOwner.size * 2);
  }
}

function currentUse(stored: Use | undefined, limit: number, now: number): Use {
  const { used, ends: storedEnds } = stored ?? { used: 0, ends: now + MINUTE_MS };
  // After a clock was set back, a minute must not last for longer than a minute.
  const ends = Math.min(storedEnds, now + MINUTE_MS);
  if (now < ends) return { used, ends, limit };
  const minutes = Math.floor((now - ends) / MINUTE_MS) + 1;
  return { used: Math.max(0, used - minutes * limit), ends: ends + minutes * MINUTE_MS, limit };
}
