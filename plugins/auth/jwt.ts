import { createHash } from 'node:crypto';
import { errors, type JWTPayload, type JWTVerifyGetKey, type JWTVerifyResult, jwtVerify } from 'jose';
import type { Config } from '../config/index.ts';
import type { Identity, Quota } from './identity.ts';
import { KeySetUnavailable } from './key-set.ts';

type Settings = NonNullable<Config['jwt']>;

/** Tolerated difference between the clocks of two machines, in seconds. */
const CLOCK_TOLERANCE_S = 30;
/** Keys that are tried for a token without `kid`, if several of the key set have its algorithm. */
const MAX_KEYS_TRIED = 10;

type Verified = JWTVerifyResult<JWTPayload>;

/**
 * Returns a function that verifies a token: signature by an allowed algorithm, issuer, audience, `exp`,
 * `nbf`. The function returns undefined for an invalid token.
 * @throws KeySetUnavailable if the key set cannot be fetched
 */
export function createJwt(
  settings: Settings,
  findKeySet: (url: string) => JWTVerifyGetKey,
): (token: string) => Promise<Identity | undefined> {
  const { jwksUrl, secret, issuer, audience, algorithms } = settings;
  const key: JWTVerifyGetKey =
    jwksUrl === undefined ? async () => new TextEncoder().encode(secret) : findKeySet(jwksUrl);
  const options = { issuer, audience, algorithms, clockTolerance: CLOCK_TOLERANCE_S, requiredClaims: ['exp', 'sub'] };

  const verify = (token: string): Promise<Verified> =>
    jwtVerify(token, key, options).catch((error: unknown) => {
      if (error instanceof errors.JWKSMultipleMatchingKeys) return verifyWithEach(token, error);
      throw error;
    });

  /** Tries the keys of a key set for a token that names none of them. */
  const verifyWithEach = async (token: string, keys: errors.JWKSMultipleMatchingKeys): Promise<Verified> => {
    let tried = 0;
    for await (const candidate of keys) {
      try {
        return await jwtVerify(token, candidate, options);
      } catch (error) {
        tried += 1;
        if (!(error instanceof errors.JWSSignatureVerificationFailed) || tried >= MAX_KEYS_TRIED) throw error;
      }
    }
    throw keys;
  };

  return async (token) => {
    try {
      const { payload, protectedHeader } = await verify(token);
      // An id token or refresh token of the same issuer is not an access token.
      if (protectedHeader.typ !== undefined && !/^(at\+)?jwt$/i.test(protectedHeader.typ)) return undefined;
      return identityOf(payload);
    } catch (error) {
      if (error instanceof KeySetUnavailable) throw error;
      return undefined;
    }
  };
}

/** Largest limit, as in the configuration. */
const MAX_COUNT = 1_000_000_000;

/**
 * Returns the identity of a verified token; undefined if a limiting claim has the wrong type or is out of range, because
 * a claim that cannot be read must not grant more. The owner is a hash of the subject, which may be an
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
  return value === undefined || (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MAX_COUNT);
}
