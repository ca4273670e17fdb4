import { createHash } from 'node:crypto';
import type { Config } from '../config/index.ts';
import type { Identity } from './identity.ts';

export interface ApiKeys {
  /** Returns the holder of a key; undefined for an unknown or expired key. */
  findByKey(key: string): Identity | undefined;
  /** Returns what the key of an owner may do now; undefined if the key was removed or has expired. */
  findByOwner(owner: string): Identity | undefined;
}

const OWNER_PREFIX = 'key:';

/** Returns true if the owner is a key of the configuration, and not the subject of a token. */
export function isKeyOwner(owner: string): boolean {
  return owner.startsWith(OWNER_PREFIX);
}

/** Returns the SHA-256 of a key in hexadecimal, as the configuration holds it. */
export function hashKey(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

/**
 * Finds the holder of a key by the hash of the key. The time of a look-up reveals nothing about valid keys,
 * because the caller cannot choose the hash.
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
