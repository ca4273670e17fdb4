import type { FastifyRequest } from 'fastify';
import { clientAddress } from '../client-address.ts';
import type { Config } from '../config/index.ts';
import { ANONYMOUS, type Identity } from './identity.ts';
import type { Credential } from './revocation.ts';

/** Limits of callers whose key or token does not set them, and of callers without either. */

/** Returns keys with the defaults of the configuration. What a key sets itself takes precedence. */
export function withKeyDefaults(keys: Config['keys'], defaults: Config['keyDefaults']): Config['keys'] {
  return keys.map((key) => merge(defaults ?? {}, key));
}

/**
 * Returns a function that adds the defaults of tokens to the claims of one. A claim takes precedence, because the issuer
 * is trusted.
 */
export function createTokenDefaults(jwt: Config['jwt']): (claims: Identity) => Identity {
  const defaults = jwt?.defaults;
  return defaults === undefined ? (claims) => claims : (claims) => ({ ...merge(defaults, claims), claims });
}

/** Merges settings that are present: an undefined limit must not replace a default. */
export function merge<T extends object>(defaults: object, own: T): T {
  const present = Object.entries(own).filter(([, value]) => value !== undefined);
  return { ...defaults, ...(Object.fromEntries(present) as T) };
}

/** Returns a function that returns the identity of a caller of an open service. Its limits count by address. */
export function createAnonymous(
  limits: Config['anonymous'],
  credential: Credential | undefined,
): (request: FastifyRequest) => Identity {
  const anonymous = { ...ANONYMOUS, credential };
  if (limits === undefined) return () => anonymous;
  return (request) => ({ ...anonymous, ...limits, payer: `address:${clientAddress(request)}` });
}
