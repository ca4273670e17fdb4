import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { RecentMap } from '../recent-map.ts';
import type { AddressLimit } from './address-limit.ts';
import type { Identity } from './identity.ts';
import { isRefusal, type Refusal } from './refusals.ts';

/** Valid tokens that are remembered at least, by their hash; twice as many at most. */
const MAX_KNOWN_TOKENS = 10_000;

/**
 * Returns a function that verifies a token within the limit of its address. Verifications that are under way count as
 * failed, so that many at the same time do not exceed the limit. A token that was valid before is verified in any case:
 * others at the same address cannot lock it out.
 *
 * The function throws 429 beyond the limit, and what `verify` throws.
 */
export function createTokenCheck(addressLimit: AddressLimit) {
  const known = new RecentMap<true>(MAX_KNOWN_TOKENS);

  return async (
    token: string,
    request: FastifyRequest,
    verify: (token: string) => Promise<Identity | Refusal>,
  ): Promise<Identity | Refusal> => {
    const hash = createHash('sha256').update(token).digest('base64url');
    const isKnown = known.get(hash) !== undefined;
    if (!isKnown) {
      const retryAfterMs = addressLimit.count(request);
      if (retryAfterMs > 0) throw addressLimit.refusal(request, retryAfterMs);
    }
    try {
      const result = await verify(token);
      if (isRefusal(result)) known.delete(hash);
      else known.set(hash, true);
      return result;
    } finally {
      // `scope.ts` counts every failed authentication.
      if (!isKnown) addressLimit.takeBack(request);
    }
  };
}
