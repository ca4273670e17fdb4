import { merge } from './defaults.ts';
import type { Identity, Quota } from './identity.ts';
import { ownerOfVisitor } from './owner.ts';

/** Visitors of a page: callers with a ticket of a key, who have streams and limits of their own. */

const COUNTS = ['requestsPerMinute', 'tokensPerMinute', 'tokensPerDay', 'maxConcurrent'] as const;

/**
 * Returns the identity of a visitor of a key or subject. What it uses is charged to both.
 * @param visitor hash of the visitor's name
 * @param own limits of the ticket; for those that it does not set, the `visitors` of the holder apply
 */
export function asVisitor(holder: Identity, visitor: string, own: Quota = {}): Identity {
  const { owner, models, credential, tokenExpires, visitors } = holder;
  return {
    ...withinLimits(merge(visitors ?? {}, own), holder),
    owner: ownerOfVisitor(owner, visitor),
    models,
    credential,
    tokenExpires,
    holder,
  };
}

/** Bounds limits by those of the holder, so that a client is told the one that applies. */
function withinLimits(limits: Quota, holder: Quota): Quota {
  const bounded = COUNTS.map((name) => [name, smaller(limits[name], holder[name])]);
  return { ...limits, ...Object.fromEntries(bounded) };
}

function smaller(own: number | undefined, bound: number | undefined): number | undefined {
  return own === undefined || bound === undefined ? own : Math.min(own, bound);
}
