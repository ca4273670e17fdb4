import { createHash } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { createRemoteJWKSet, customFetch, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose';
import { isForbiddenHost } from '../../providers/addresses.ts';
import type { Config } from '../config/index.ts';
import type { Identity, Quota } from './identity.ts';

type Settings = NonNullable<Config['jwt']>;

/** Clocks of two machines may differ so much, in seconds. */
const CLOCK_TOLERANCE_S = 30;
/** How long a key set is kept, how soon it is fetched again for a key that is not in it, how long that may take. */
const KEY_SET_OPTIONS = { cacheMaxAge: 600_000, cooldownDuration: 30_000, timeoutDuration: 3_000 };

/** The issuer's keys cannot be had now: not the caller's fault. */
export class KeySetUnavailable extends Error {
  override readonly name = 'KeysUnavailable';
}

/**
 * Verifies a token: signature by an allowed algorithm, issuer, audience, `exp`, `nbf`. Undefined for one
 * that is not good, whatever is wrong with it.
 * @throws KeysUnavailable where the key set cannot be fetched
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
      // An id or refresh token of the same issuer is no access token.
      if (protectedHeader.typ !== undefined && !/^(at\+)?jwt$/i.test(protectedHeader.typ)) return undefined;
      return identityOf(payload);
    } catch (error) {
      if (isUnavailable(error)) throw new KeySetUnavailable();
      return undefined;
    }
  };
}

/** A name may come to mean another address after the start. */
async function fetchFromAllowedHost(url: string, options: RequestInit): Promise<Response> {
  const { hostname } = new URL(url);
  const addresses = isIP(hostname.replace(/^\[|\]$/g, '')) ? [] : await lookup(hostname, { all: true });
  if (addresses.some(({ address }) => isForbiddenHost(address))) throw new TypeError('forbidden address');
  return fetch(url, options);
}

function isUnavailable(error: unknown): boolean {
  if (error instanceof errors.JWKSTimeout) return true;
  if (error instanceof errors.JOSEError) return error.code === 'ERR_JOSE_GENERIC';
  if (error instanceof TypeError) return true; // `fetch failed`
  return (error as NodeJS.ErrnoException).syscall === 'getaddrinfo';
}

/**
 * Undefined where a claim that would narrow is not what it should be: it must not open instead. The
 * subject is told by its hash: it may be an address, and owners stand in logs.
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
