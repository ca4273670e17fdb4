import type { Cluster } from '../redis/index.ts';
import { LocalUse } from './local-use.ts';
import type { Period } from './period.ts';
import { type Charge, createSharedUse } from './shared-use.ts';

/**
 * Limits tokens per period and owner, across all replicas. The tokens of an answer are known only at its end, so the
 * use of an owner may exceed the limit. Every period pays off as many tokens as the limit, and until then the owner
 * gets no more. The first period of an owner begins with its first question.
 */
export interface TokenLimiter {
  /** Charges tokens, at most `limit`, if they fit into the limit of the owner. */
  charge(owner: string, limit: number, tokens: number): Promise<Charge>;
}

export interface TokenLimiterOptions {
  readonly period: Period;
  readonly cluster: Cluster | undefined;
  readonly expectedReplicas: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
}

export function createTokenLimiter({
  period,
  cluster,
  expectedReplicas,
  onDegraded,
}: TokenLimiterOptions): TokenLimiter {
  const local = new LocalUse(period);
  const shared = cluster && createSharedUse(cluster, period);
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
