import type { Cluster } from '../redis/index.ts';
import { LocalUse } from './local-use.ts';
import { type Charge, createSharedUse } from './shared-use.ts';

/**
 * Limits tokens per minute and owner, across all replicas. The tokens of an answer are known only at its end, so the
 * use of an owner may exceed the limit. Every minute pays off as many tokens as the limit, and until then the owner
 * gets no more.
 */
export interface TokenLimiter {
  /** Charges tokens, at most `limit`, if they fit into the limit of the owner. */
  charge(owner: string, limit: number, tokens: number): Promise<Charge>;
}

export interface TokenLimiterOptions {
  readonly cluster: Cluster | undefined;
  readonly expectedReplicas: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
}

export function createTokenLimiter({ cluster, expectedReplicas, onDegraded }: TokenLimiterOptions): TokenLimiter {
  const local = new LocalUse();
  const shared = cluster && createSharedUse(cluster);
  const localLimit = (limit: number) => (cluster === undefined ? limit : Math.ceil(limit / expectedReplicas));

  const chargeLocally = (owner: string, limit: number, tokens: number): Charge => {
    const share = localLimit(limit);
    const { retryAfterMs, series } = local.charge(owner, share, tokens);
    return {
      passed: retryAfterMs === 0,
      retryAfterMs,
      adjust: (more) => local.adjust(owner, share, more, series),
    };
  };

  return {
    async charge(owner, limit, tokens) {
      if (shared === undefined) return chargeLocally(owner, limit, tokens);
      try {
        return await shared.charge(owner, limit, tokens, (more) => local.adjust(owner, localLimit(limit), more));
      } catch {
        onDegraded();
        return chargeLocally(owner, limit, tokens);
      }
    },
  };
}
