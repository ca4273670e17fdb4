import type { Config } from '../config/index.ts';
import { hashKey } from './api-keys.ts';
import type { Identity } from './identity.ts';
import { ownerOfKey } from './owner.ts';

/** Reason for which credentials are refused. For operators alone: callers get the same answer for every reason. */
export type RefusalReason =
  /** Neither an `Authorization` header nor a ticket. */
  | 'missing'
  /** Not `Bearer` and one word. */
  | 'malformed'
  /** No key of this text, and no token. */
  | 'unknown'
  /** The time of the key, token or ticket is over. */
  | 'expired'
  /** The key was removed or replaced, or the key of a ticket was. */
  | 'revoked'
  /** The signature of a token or ticket is wrong. */
  | 'signature'
  /** No key of the issuer fits the token. */
  | 'signing_key'
  /** The token is signed by an algorithm that is not allowed. */
  | 'algorithm'
  | 'issuer'
  | 'audience'
  /** Another claim of a token is missing or wrong, or it is not an access token. */
  | 'claims'
  /** The ticket is for another route, stream or model. */
  | 'scope'
  /** The ticket was used for another question. */
  | 'used';

export interface Refusal {
  readonly reason: RefusalReason;
  /** Owner of the credentials, as far as they prove it. */
  readonly owner?: string;
}

export function isRefusal(result: Identity | Refusal): result is Refusal {
  return 'reason' in result;
}

/** Removed keys that are remembered. Older ones are refused as unknown. */
const MAX_REVOKED_KEYS = 1_000;

/** Knows why a key is refused. */
export interface KeyRefusals {
  /** Takes the keys of the configuration. Those that are no longer among them are revoked. */
  configure(keys: Config['keys']): void;
  /** Returns the reason for a key that is refused. */
  explain(key: string): Refusal;
}

export function createKeyRefusals(): KeyRefusals {
  let configured: ReadonlyMap<string, string> = new Map();
  /** Names of keys by hash, least recently revoked first. */
  const revoked = new Map<string, string>();
  return {
    configure(keys) {
      const next = new Map(keys.map(({ name, sha256 }) => [sha256.toLowerCase(), name]));
      for (const [hash, name] of configured) if (!next.has(hash)) revoked.set(hash, name);
      for (const hash of next.keys()) revoked.delete(hash);
      const excess = [...revoked.keys()].slice(0, Math.max(0, revoked.size - MAX_REVOKED_KEYS));
      for (const hash of excess) revoked.delete(hash);
      configured = next;
    },
    explain(key) {
      const hash = hashKey(key);
      const known = configured.get(hash);
      if (known !== undefined) return { reason: 'expired', owner: ownerOfKey(known) };
      const former = revoked.get(hash);
      return former === undefined ? { reason: 'unknown' } : { reason: 'revoked', owner: ownerOfKey(former) };
    },
  };
}
