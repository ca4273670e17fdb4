import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { FastifyBaseLogger } from 'fastify';
import { createLocalJWKSet, errors, type JSONWebKeySet, type JWTVerifyGetKey } from 'jose';
import { createAllowedLookup } from '../../providers/addresses.ts';

/** The key set of the issuer cannot be fetched. Not the fault of the caller. */
export class KeySetUnavailable extends Error {
  override readonly name = 'KeySetUnavailable';
}

export interface KeySetOptions {
  /** Monotonic milliseconds. */
  now(): number;
  readonly log: Pick<FastifyBaseLogger, 'info' | 'warn'>;
}

/** Age at which the key set is fetched again. A withdrawn key is accepted for this time at most. */
const MAX_AGE_MS = 600_000;
/** Age up to which the last key set is used while the issuer is unavailable. */
const MAX_STALE_AGE_MS = 3_600_000;
/** Least time between two fetches, whatever tokens arrive. A new key of the issuer is refused for this time at most. */
const MIN_FETCH_INTERVAL_MS = 5_000;
/** Time limit of a fetch, from the DNS lookup to the last byte. */
const FETCH_TIMEOUT_MS = 3_000;
/** Maximum size of a key set in bytes. */
const MAX_KEY_SET_BYTES = 1024 * 1024;

/**
 * Returns a function that returns the key set at a URL. A key set with the URL of the last one is the same, so that a
 * reload of the configuration keeps what was fetched.
 */
export function createKeySets(options: KeySetOptions): (url: string) => JWTVerifyGetKey {
  let last: { readonly url: string; readonly findKey: JWTVerifyGetKey } | undefined;
  return (url) => {
    if (last?.url !== url) last = { url, findKey: createKeySet(url, options) };
    return last.findKey;
  };
}

/**
 * Returns a function that finds the key of a token in the key set of its issuer. `createRemoteJWKSet` of jose refuses
 * every token while the issuer is unavailable, and fetches once for each of them.
 *
 * The function throws `KeySetUnavailable` if there is no key set that may be used, and an error of jose if no key
 * matches the token.
 */
function createKeySet(url: string, { now, log }: KeySetOptions): JWTVerifyGetKey {
  let findKey: JWTVerifyGetKey | undefined;
  let fetchedAt = Number.NEGATIVE_INFINITY;
  let triedAt = Number.NEGATIVE_INFINITY;
  let isFailing = false;
  let pending: Promise<void> | undefined;

  const age = () => now() - fetchedAt;
  const isUsable = () => findKey !== undefined && age() < MAX_STALE_AGE_MS;

  /** Fetches the key set unless that was tried a moment ago. Never rejects. */
  const refresh = (): Promise<void> => {
    if (pending === undefined && now() - triedAt >= MIN_FETCH_INTERVAL_MS) {
      triedAt = now();
      pending = fetchKeySet(url)
        .then((keys) => createLocalJWKSet(keys))
        .then(onFetched, onFailed)
        .finally(() => {
          pending = undefined;
        });
    }
    return pending ?? Promise.resolve();
  };

  const onFetched = (next: JWTVerifyGetKey) => {
    findKey = next;
    fetchedAt = now();
    if (isFailing) log.info('key set of the token issuer available again');
    isFailing = false;
  };

  const onFailed = (error: unknown) => {
    if (!isFailing) {
      const { reason, code, name } = error as NodeJS.ErrnoException & { reason?: string };
      const consequence = isUsable()
        ? 'its last key set is used for up to one hour'
        : 'requests with tokens are refused';
      log.warn({ reason: reason ?? code ?? name }, `key set of the token issuer unavailable; ${consequence}`);
    }
    isFailing = true;
  };

  /** Waits for a fetch. While the issuer is known to be unavailable, nobody waits if the last key set may be used. */
  const refreshed = async () => {
    const fetched = refresh();
    if (!isFailing || !isUsable()) await fetched;
  };

  return async (header, token) => {
    if (age() >= MAX_AGE_MS) await refreshed();
    if (findKey === undefined || !isUsable()) throw new KeySetUnavailable();
    try {
      return await findKey(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      await refreshed(); // The issuer may have a new key.
      return findKey(header, token);
    }
  };
}

/**
 * Fetches a key set. Resolves the host once, and connects only to an allowed address. Follows no redirect.
 * @throws Error for a failed request, a status other than 200, or a body that is no key set
 */
function fetchKeySet(url: string): Promise<JSONWebKeySet> {
  const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
  const request = url.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const headers = { accept: 'application/jwk-set+json, application/json', connection: 'close' };
    const outgoing = request(url, { signal, headers, lookup: createAllowedLookup(), agent: false }, (response) => {
      const fail = (code: string) => {
        response.destroy();
        reject(Object.assign(new Error('the key set cannot be read'), { code }));
      };
      if (response.statusCode !== 200) return fail(`http_${response.statusCode}`);
      const chunks: Buffer[] = [];
      let size = 0;
      response.on('error', reject);
      response.on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        size += chunk.length;
        if (size > MAX_KEY_SET_BYTES) fail('too_large');
      });
      response.on('end', () => {
        try {
          resolve(JSON.parse(Buffer.concat(chunks).toString()));
        } catch {
          fail('bad_json');
        }
      });
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}
