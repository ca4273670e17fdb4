import { createHash } from 'node:crypto';
import { errors, type JWTPayload, type JWTVerifyGetKey, type JWTVerifyResult, jwtVerify } from 'jose';
import type { Config } from '../config/index.ts';
import type { Identity, Quota } from './identity.ts';
import { KeySetUnavailable } from './key-set.ts';
import type { Refusal, RefusalReason } from './refusals.ts';
import type { Credential, CredentialSettings } from './revocation.ts';

type Settings = NonNullable<Config['jwt']>;

/** Tolerated difference between the clocks of two machines, in seconds. */
const CLOCK_TOLERANCE_S = 30;
/** Keys that are tried for a token without `kid`, if several of the key set have its algorithm. */
const MAX_KEYS_TRIED = 10;

type Verified = JWTVerifyResult<JWTPayload>;

/**
 * Returns the credential of all tokens of an issuer. Tokens for another issuer or audience, or with another secret, are
 * other credentials. New algorithms and another URL of the key set are not.
 * @param markOf returns a keyed hash of a text, because the text has the secret
 */
export function credentialOfIssuer(
  { issuer, audience, secret }: Settings,
  markOf: (text: string) => string,
): CredentialSettings {
  const mark = markOf(JSON.stringify([issuer, audience, secret ?? null]));
  return { id: `issuer ${mark}`, mark, name: 'jwt', expires: Number.POSITIVE_INFINITY };
}

/**
 * Returns a function that verifies a token: signature by an allowed algorithm, issuer, audience, `exp`,
 * `nbf`. The function returns the reason for an invalid token.
 * @throws KeySetUnavailable if the key set cannot be fetched
 */
export function createJwt(
  settings: Settings,
  credential: Credential,
  findKeySet: (url: string) => JWTVerifyGetKey,
): (token: string) => Promise<Identity | Refusal> {
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
      if (protectedHeader.typ !== undefined && !/^(at\+)?jwt$/i.test(protectedHeader.typ)) return WRONG_CLAIMS;
      const identity = identityOf(payload);
      return identity ? { ...identity, credential } : WRONG_CLAIMS;
    } catch (error) {
      if (error instanceof KeySetUnavailable) throw error;
      return { reason: reasonOf(error) };
    }
  };
}

const WRONG_CLAIMS: Refusal = { reason: 'claims' };

/** Reasons by the name of the claim that is missing or wrong. */
const CLAIM_REASONS: Readonly<Record<string, RefusalReason>> = { iss: 'issuer', aud: 'audience' };

function reasonOf(error: unknown): RefusalReason {
  if (error instanceof errors.JWTExpired) return 'expired';
  if (error instanceof errors.JWTClaimValidationFailed) return CLAIM_REASONS[error.claim] ?? 'claims';
  if (error instanceof errors.JWSSignatureVerificationFailed) return 'signature';
  if (error instanceof errors.JWKSMultipleMatchingKeys) return 'signature';
  if (error instanceof errors.JWKSNoMatchingKey) return 'signing_key';
  return error instanceof errors.JOSEAlgNotAllowed ? 'algorithm' : 'malformed';
}
/** Largest limit, as in the configuration. */
const MAX_COUNT = 1_000_000_000;

/**
 * Returns the identity of a verified token; undefined if a limiting claim has the wrong type or is out of range, because
 * a claim that cannot be read must not grant more. The owner is a hash of the subject, which may be an
 * e-mail address.
 */
function identityOf(payload: JWTPayload): Identity | undefined {
  const { iss, sub, exp = 0, models, requestsPerMinute, tokensPerMinute, tokensPerDay, maxConcurrent } = payload;
  if (!isListOfNames(models)) return undefined;
  const counts = { requestsPerMinute, tokensPerMinute, tokensPerDay, maxConcurrent };
  if (!Object.values(counts).every(isCount)) return undefined;
  const subject = createHash('sha256')
    .update(JSON.stringify([iss, sub]))
    .digest('base64url')
    .slice(0, 22);
  const tokenExpires = Math.min((exp + CLOCK_TOLERANCE_S) * 1_000, Number.MAX_SAFE_INTEGER);
  return { owner: `jwt:${subject}`, tokenExpires, ...(models && { models }), ...(counts as Quota) };
}

function isListOfNames(value: unknown): value is string[] | undefined {
  return value === undefined || (Array.isArray(value) && value.every((one) => typeof one === 'string'));
}

function isCount(value: unknown): boolean {
  return value === undefined || (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MAX_COUNT);
}
