import { createHash } from 'node:crypto';
import type { Config } from '../config/index.ts';
import type { Identity } from './identity.ts';

export interface ApiKeys {
  /** Whose key it is. */
  findByKey(key: string): Identity | undefined;
  /** What the key of this owner may now. */
  findByOwner(owner: string): Identity | undefined;
}

const OWNER_PREFIX = 'key:';

/** Whether an owner is a key of the configuration, and not a token's subject. */
export function isKeyOwner(owner: string): boolean {
  return owner.startsWith(OWNER_PREFIX);
}

/** SHA-256 of a key, in hexadecimal: what the configuration holds. */
export function hashKey(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

/**
 * Finds whose a key is. The look-up is by the key's hash, so that the time it takes tells nothing of any
 * key: whoever guesses does not know the hash of what they guess at.
 */
export function createApiKeys(keys: Config['keys'], now: () => number): ApiKeys {
  const byHash = new Map(
    keys.map(({ name, sha256, expiresAt, ...allowed }) => {
      const expires = expiresAt === undefined ? Number.POSITIVE_INFINITY : Date.parse(expiresAt);
      return [sha256.toLowerCase(), { expires, identity: { owner: `${OWNER_PREFIX}${name}`, ...allowed } }];
    }),
  );
  const byOwner = new Map([...byHash.values()].map((entry) => [entry.identity.owner, entry]));
  const ifNotExpired = (found: { expires: number; identity: Identity } | undefined) =>
    found && found.expires > now() ? found.identity : undefined;

  return {
    findByKey: (key) => ifNotExpired(byHash.get(hashKey(key))),
    findByOwner: (owner) => ifNotExpired(byOwner.get(owner)),
  };
}
