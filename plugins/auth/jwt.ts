import { createHash } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { createRemoteJWKSet, customFetch, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose';
import { isForbiddenHost } from '../../providers/addresses.ts';
import type { Config } from '../config/index.ts';
import type { Identity, Quota } from './identity.ts';

type Settings = NonNullable<Config['jwt']>;

/** Tolerated difference between the clocks of two machines, in seconds. */
const CLOCK_TOLERANCE_S = 30;
/** Milliseconds: how long a key set is cached, least time between two fetches, timeout of a fetch. */
const KEY_SET_OPTIONS = { cacheMaxAge: 600_000, cooldownDuration: 30_000, timeoutDuration: 3_000 };

/** The key set of the issuer cannot be fetched. Not the fault of the caller. */
export class KeySetUnavailable extends Error {
  override readonly name = 'KeySetUnavailable';
}

/**
 * Returns a function that verifies a token: signature by an allowed algorithm, issuer, audience, `exp`,
 * `nbf`. The function returns undefined for an invalid token.
 * @throws KeySetUnavailable if the key set cannot be fetched
 */
export function createJwt(settings: Settings): (token: string) => Promise<Identity | undefined> {
  const { jwksUrl, secret, issuer, audience, algorithms } = settings;
  const key: JWTVerifyGetKey =
    jwksUrl === undefined
      ? async () => new TextEncoder().encode(secret)
      : createRemoteJWKSet(new URL(jwksUrl), { ...KEY_SET_OPTIONS, [customFetch]: fetchFromAllowedHost });
  const options = { issuer, audience, algorithms, clockTolerance: CLOCK_TOLERANCE_S, requiredClaims: ['exp', 'sub'] };

  return async (token) => {
    try {
      const { payload, protectedHeader } = await jwtVerify(token, key, options);
      // An id token or refresh token of the same issuer is not an access token.
      if (protectedHeader.typ !== undefined && !/^(at\+)?jwt$/i.test(protectedHeader.typ)) return undefined;
      return identityOf(payload);
    } catch (error) {
      if (isUnavailable(error)) throw new KeySetUnavailable();
      return undefined;
    }
  };
}

/** Fetches the key set. Checks the addresses at each fetch, because DNS may change after the start. */
async function fetchFromAllowedHost(url: string, options: RequestInit): Promise<Response> {
  const { hostname } = new URL(url);
  const addresses = isIP(hostname.replace(/^\[|\]$/g, '')) ? [] : await lookup(hostname, { all: true });
  if (addresses.some(({ address }) => isForbiddenHost(address))) throw new TypeError('forbidden address');
  return fetch(url, options);
}

/** jose reports a failed fetch as `ERR_JOSE_GENERIC`. */
function isUnavailable(error: unknown): boolean {
  if (error instanceof errors.JWKSTimeout) return true;
  if (error instanceof errors.JOSEError) return error.code === 'ERR_JOSE_GENERIC';
  if (error instanceof TypeError) return true; // `fetch failed`
  return (error as NodeJS.ErrnoException).syscall === 'getaddrinfo';
}

/**
 * Returns the identity of a verified token; undefined if a limiting claim has the wrong type, because a
 * claim that cannot be read must not grant more. The owner is a hash of the subject, which may be an
 * e-mail address.
 */
function identityOf(payload: JWTPayload): Identity | undefined {
  const { iss, sub, models, requestsPerMinute, tokensPerMinute, maxConcurrent } = payload;
  if (!isListOfNames(models)) return undefined;
  const counts = { requestsPerMinute, tokensPerMinute, maxConcurrent };
  if (!Object.values(counts).every(isCount)) return undefined;
  const subject = createHash('sha256')
    .update(JSON.stringify([iss, sub]))
    .digest('base64url')
    .slice(0, 22);
  return { owner: `jwt:${subject}`, ...(models && { models }), ...(counts as Quota) };
}

function isListOfNames(value: unknown): value is string[] | undefined {
  return value === undefined || (Array.isArray(value) && value.every((one) => typeof one === 'string'));
}

function isCount(value: unknown): boolean {
  return value === undefined || (Number.isSafeInteger(value) && (value as number) > 0);
}
