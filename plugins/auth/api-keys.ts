import { createHash } from 'node:crypto';
import type { Config } from '../config/index.ts';
import type { Identity } from './identity.ts';
import { ownerOfKey } from './owner.ts';
import type { Credential, CredentialSettings, PreparedCredentials } from './revocation.ts';

export interface ApiKeys {
  /** Returns the holder of a key; undefined for an unknown or expired key. */
  findByKey(key: string): Identity | undefined;
  /** Returns what the key of an owner may do now; undefined if the key was removed, was replaced, or has expired. */
  findByOwner(owner: string, mark: string | undefined): Identity | undefined;
  /** Returns the key with a mark, whatever its name is now. */
  findByMark(mark: string | undefined): Credential | undefined;
}

/** Length of a mark in hexadecimal digits. It tells two keys apart and reveals nothing useful about the key. */
const MARK_LENGTH = 12;

/** Returns the SHA-256 of a key in hexadecimal, as the configuration holds it. */
export function hashKey(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

/**
 * Returns the credentials of keys. A key is the same one as long as its hash is listed, also under another name: the
 * requests in progress of a key that is renamed need not end.
 */
export function credentialsOfKeys(keys: Config['keys']): CredentialSettings[] {
  return keys.map(({ name, sha256, expiresAt }) => {
    const hash = sha256.toLowerCase();
    const expires = expiresAt === undefined ? Number.POSITIVE_INFINITY : Date.parse(expiresAt);
    return { id: hash, mark: hash.slice(0, MARK_LENGTH), name: ownerOfKey(name), expires };
  });
}

/**
 * Finds the holder of a key by the hash of the key. The time of a look-up reveals nothing about valid keys,
 * because the caller cannot choose the hash.
 */
export function createApiKeys(keys: Config['keys'], credentials: PreparedCredentials): ApiKeys {
  const byHash = new Map(
    keys.map(({ name, sha256, expiresAt: _, ...allowed }) => {
      const hash = sha256.toLowerCase();
      return [hash, { owner: ownerOfKey(name), ...allowed, credential: credentials.get(hash) }];
    }),
  );
  const byOwner = new Map([...byHash.values()].map((identity) => [identity.owner, identity]));
  const byMark = new Map([...byHash.values()].map(({ credential }) => [credential.mark, credential]));
  const ifAccepted = <T extends { credential: Credential }>(found: T | undefined) =>
    found?.credential.isRevoked === false ? found : undefined;

  return {
    findByKey: (key) => ifAccepted(byHash.get(hashKey(key))),
    findByOwner(owner, mark) {
      const found = ifAccepted(byOwner.get(owner));
      return found?.credential.mark === mark ? found : undefined;
    },
    findByMark: (mark) => (mark === undefined ? undefined : byMark.get(mark)),
  };
}
