import { createHash } from 'node:crypto';
import type { Config } from '../config/index.ts';
import type { Identity } from './identity.ts';

export interface ApiKeys {
  /** Returns the holder of a key; undefined for an unknown or expired key. */
  findByKey(key: string): Identity | undefined;
  /** Returns what the key of an owner may do now; undefined if the key was removed, was replaced, or has expired. */
  findByOwner(owner: string, mark: string | undefined): Identity | undefined;
  /** Returns a mark that tells the key of an owner from a later one of the same name; undefined without a key. */
  markOf(owner: string): string | undefined;
}

const OWNER_PREFIX = 'key:';
/** Length of a mark in hexadecimal digits. It tells two keys apart and reveals nothing useful about the key. */
const MARK_LENGTH = 12;

/** Returns true if the owner is a key of the configuration, and not the subject of a token. */
export function isKeyOwner(owner: string): boolean {
  return owner.startsWith(OWNER_PREFIX);
}

/** Returns the owner that a key of this name is. */
export function ownerOfKey(name: string): string {
  return `${OWNER_PREFIX}${name}`;
}

/** Returns the name of the key that an owner is; undefined for any other owner. */
export function keyNameOf(owner: string): string | undefined {
  return isKeyOwner(owner) ? owner.slice(OWNER_PREFIX.length) : undefined;
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
      const hash = sha256.toLowerCase();
      return [hash, { hash, expires, identity: { owner: ownerOfKey(name), ...allowed } }];
    }),
  );
  const byOwner = new Map([...byHash.values()].map((entry) => [entry.identity.owner, entry]));
  const markOf = (owner: string) => byOwner.get(owner)?.hash.slice(0, MARK_LENGTH);
  const ifNotExpired = (found: { expires: number; identity: Identity } | undefined) =>
    found && found.expires > now() ? found.identity : undefined;

  return {
    findByKey: (key) => ifNotExpired(byHash.get(hashKey(key))),
    findByOwner(owner, mark) {
      const found = byOwner.get(owner);
      return found && markOf(owner) === mark ? ifNotExpired(found) : undefined;
    },
    markOf,
  };
}
