import type { FinishPart } from '../../providers/types.ts';
import type { ModelPrice } from '../config/price-file.ts';
import type { TokenUse } from '../limits/tokens.ts';
import type { Metrics } from '../metrics/index.ts';
import { type CostUse, costOf, sumCosts } from '../prices/cost.ts';
import type { Terminal } from './types.ts';

/** Counts what a generation that has ended has used. */

/** Tokens and cost of one generation. */
export interface Spending {
  /** Label of the model. */
  readonly model: string;
  readonly owner: string;
  readonly used: TokenUse;
  /** Undefined if it is unknown. */
  readonly cost: CostUse | undefined;
  readonly terminal: Terminal;
}

/**
 * Returns the cost of a generation; undefined if it is unknown. Without a count of the provider it is that of the
 * estimated tokens.
 * @param price of the target that was asked last
 * @param uncounted tokens in the usage of calls that broke off
 */
export function costUsed(
  terminal: Terminal,
  { counted, estimated }: TokenUse,
  price: ModelPrice | undefined,
  uncounted?: FinishPart['uncounted'],
): CostUse | undefined {
  const usage = (terminal.type === 'end' && terminal.usage) || {};
  if (usage.inputTokens !== undefined && usage.outputTokens !== undefined) {
    const { cost } = usage;
    if (cost === undefined) return undefined;
    const ofBroken = uncounted?.cost ?? 0;
    return { counted: sumCosts([cost, -ofBroken]) ?? 0, estimated: ofBroken };
  }
  const inputTokens = counted.input + estimated.input;
  const outputTokens = counted.output + estimated.output;
  const cost = costOf({ inputTokens, outputTokens }, price);
  return cost === undefined ? undefined : { counted: 0, estimated: cost };
}

/** Returns the whole cost in USD; undefined if it is unknown. */
export function totalOf(cost: CostUse | undefined): number | undefined {
  return cost && sumCosts([cost.counted, cost.estimated]);
}

/** Counts the tokens and the cost of a generation that has ended. Call once, on the replica that has ended its log. */
export function countSpending(metrics: Metrics, { model, owner, used, cost, terminal }: Spending): void {
  const key = metrics.keyLabels.labelOf(owner);
  const { cachedTokens, reasoningTokens } = (terminal.type === 'end' && terminal.usage) || {};
  const add = (kind: string, basis: string, count = 0) => {
    if (count > 0 && Number.isFinite(count)) metrics.tokens.inc({ key, model, kind, basis }, count);
  };
  add('input', 'counted', used.counted.input);
  add('output', 'counted', used.counted.output);
  add('cached', 'counted', cachedTokens);
  add('reasoning', 'counted', reasoningTokens);
  add('input', 'estimated', used.estimated.input);
  add('output', 'estimated', used.estimated.output);
  for (const [basis, usd] of Object.entries(cost ?? {})) {
    if (usd > 0) metrics.cost.inc({ key, model, basis }, usd);
  }
}
