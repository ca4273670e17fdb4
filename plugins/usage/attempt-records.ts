import type { UncountedCall, Usage } from '../../providers/types.ts';
import type { Tokens, TokenUse } from '../limits/tokens.ts';
import { type CostUse, sumCosts } from '../prices/cost.ts';
import type { Attempt } from './attempts.ts';

/** Shares the tokens and the cost of a generation out among its calls. Pure. */

/** `both`: a part of the tokens is counted by a provider, the other part is estimated. */
export type Basis = 'counted' | 'estimated' | 'both';

/** One provider call in a usage record. The sums of all calls are those of the record. */
export interface AttemptRecord {
  /** `provider/model`; absent if another replica, which has died, made the call. */
  readonly target?: string | undefined;
  readonly outcome: string;
  readonly basis: Basis;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly cost?: number | undefined;
}

export interface Shared {
  readonly used: TokenUse;
  readonly cost: CostUse | undefined;
  readonly usage?: Usage | undefined;
  readonly uncounted?: readonly UncountedCall[] | undefined;
  readonly attempts: readonly Attempt[];
}

/**
 * Returns the records of all calls. Calls that broke off have what is estimated for them; the last call that may be
 * billed has the rest.
 */
export function shareOut({ used, cost, usage, uncounted, attempts }: Shared): AttemptRecord[] {
  const billed = attempts.findLastIndex(({ isFree }) => !isFree);
  const main = billed === -1 ? attempts.length - 1 : billed;
  let left = used.estimated;
  let broken = 0;
  const shares = attempts.map(({ outputTokens }, i) => {
    if (i === main || outputTokens === undefined) return { ...NO_SHARE, cost: undefined };
    const estimate = uncounted?.[broken++] ?? { input: 0, output: outputTokens, cost: undefined };
    const share = { input: Math.min(estimate.input, left.input), output: Math.min(estimate.output, left.output) };
    left = { input: left.input - share.input, output: left.output - share.output };
    return { ...share, cost: estimate.cost };
  });
  const isCounted = usage?.inputTokens !== undefined && usage.outputTokens !== undefined;
  const others = shares.filter((_, i) => i !== main && attempts[i]?.outputTokens !== undefined);
  // The estimated cost of a whole answer is one number: the calls have no costs of their own.
  const knowsCosts = cost !== undefined && (isCounted || others.length === 0);
  const costOfOthers = sumCosts(others.map((share) => share.cost));
  const total = cost && sumCosts([cost.counted, cost.estimated]);
  const costOfMain = costOfOthers === undefined || !knowsCosts ? undefined : sumCosts([total, -costOfOthers]);

  return attempts.map(({ target, outcome }, i) => {
    const share = i === main ? { counted: used.counted, estimated: left } : { counted: NO_SHARE, estimated: shares[i] };
    const own = i === main ? costOfMain : shares[i]?.cost;
    return recordOf({ target, outcome }, share, costOfMain === undefined ? undefined : own);
  });
}

const NO_SHARE: Tokens = { input: 0, output: 0 };

function recordOf(
  call: Pick<AttemptRecord, 'target' | 'outcome'>,
  { counted, estimated = NO_SHARE }: { counted: Tokens; estimated: Tokens | undefined },
  cost: number | undefined,
): AttemptRecord {
  const inputTokens = counted.input + estimated.input;
  const outputTokens = counted.output + estimated.output;
  return { ...call, basis: basisOf({ counted, estimated }), inputTokens, outputTokens, cost };
}

/** Returns whether tokens are counted or estimated. No tokens are counted as none. */
export function basisOf({ counted, estimated }: TokenUse): Basis {
  if (estimated.input + estimated.output === 0) return 'counted';
  return counted.input + counted.output === 0 ? 'estimated' : 'both';
}
