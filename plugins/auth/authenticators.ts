import type { FastifyRequest } from 'fastify';
import type { JWTVerifyGetKey } from 'jose';
import type { Config } from '../config/index.ts';
import { type ApiKeys, createApiKeys, credentialsOfKeys } from './api-keys.ts';
import { createAnonymous, createTokenDefaults, withKeyDefaults } from './defaults.ts';
import { ANONYMOUS, type Identity } from './identity.ts';
import { createJwt, credentialOfIssuer } from './jwt.ts';
import { isRefusal, type Refusal } from './refusals.ts';
import type { Credential, CredentialSettings, Credentials } from './revocation.ts';
import type { Ticket } from './tickets.ts';

/** Identifies callers as one configuration describes them. A reload replaces all of it. */
export interface Authenticators extends Pick<ApiKeys, 'findByKey'> {
  /** True if callers must authenticate: keys or tokens are configured. */
  readonly required: boolean;
  /** Returns the identity of a caller of an open service. */
  anonymous(request: FastifyRequest): Identity;
  /** Verifies a token; absent if tokens are not configured. @throws KeySetUnavailable as `createJwt` does */
  readonly verifyToken: ((token: string) => Promise<Identity | Refusal>) | undefined;
  /** Returns what the owner of a ticket may do now; undefined if its key or token is no longer accepted. */
  findByTicket(ticket: Ticket): Identity | undefined;
  /** Returns true if a ticket without a holder has expired with its key or token, and false if those were revoked. */
  isTicketExpired(ticket: Ticket): boolean;
  /** Returns the credential with a mark. */
  findCredential(mark: string | undefined): Credential | undefined;
  /** Makes this the running configuration: credentials that it does not have are revoked. */
  apply(): void;
}

/** The settings of a configuration that concern callers. */
export interface CallerSettings {
  readonly keys: Config['keys'];
  readonly keyDefaults?: Config['keyDefaults'] | undefined;
  readonly jwt?: Config['jwt'] | undefined;
  /** Limits of callers of a service without keys and tokens. */
  readonly anonymous?: Config['anonymous'] | undefined;
}

export interface AuthenticatorOptions {
  readonly credentials: Credentials;
  findKeySet(url: string): JWTVerifyGetKey;
  /** Returns a keyed hash of a text that may be secret. */
  markOf(text: string): string;
}

/** The credential of callers of an open service. It ends when the service gets its first keys. */
const OPEN_SERVICE: CredentialSettings = {
  id: 'open service',
  mark: '',
  name: ANONYMOUS.owner,
  expires: Number.POSITIVE_INFINITY,
};

/** Returns the authenticators of a configuration. They revoke nothing before `apply` is called. */
export function createAuthenticators(
  { keys, keyDefaults, jwt, anonymous }: CallerSettings,
  { credentials, findKeySet, markOf }: AuthenticatorOptions,
): Authenticators {
  const required = keys.length > 0 || jwt !== undefined;
  const issuer = jwt && credentialOfIssuer(jwt, markOf);
  const prepared = credentials.prepare([
    ...credentialsOfKeys(keys),
    ...(issuer ? [issuer] : []),
    ...(required ? [] : [OPEN_SERVICE]),
  ]);
  const { findByKey, findByOwner, findByMark } = createApiKeys(withKeyDefaults(keys, keyDefaults), prepared);
  const issuerCredential = issuer && prepared.get(issuer.id);
  const otherCredential = issuerCredential ?? (required ? undefined : prepared.get(OPEN_SERVICE.id));

  const findCredential = (mark: string | undefined) =>
    otherCredential?.mark === mark ? otherCredential : findByMark(mark);

  const verify = jwt && issuerCredential && createJwt(jwt, issuerCredential, findKeySet);
  const withDefaults = createTokenDefaults(jwt);

  return {
    required,
    anonymous: createAnonymous(anonymous, otherCredential),
    findByKey,
    verifyToken:
      verify &&
      (async (token) => {
        const claims = await verify(token);
        return isRefusal(claims) ? claims : withDefaults(claims);
      }),
    findByTicket({ owner, mark, claims }) {
      if (claims === undefined) return findByOwner(owner, mark);
      const isValid = issuerCredential?.mark === mark && (claims.tokenExpires ?? 0) > Date.now();
      return isValid ? withDefaults({ ...claims, credential: issuerCredential }) : undefined;
    },
    isTicketExpired({ mark, claims }) {
      const credential = findCredential(mark);
      return credential !== undefined && (credential.isRevoked || claims !== undefined);
    },
    findCredential,
    apply: prepared.apply,
  };
}
