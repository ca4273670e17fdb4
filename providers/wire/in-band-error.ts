import { ProviderError, type UpstreamDetail } from '../errors.ts';
import { isOutOfMoney } from './classify-error.ts';

/** Types by which providers blame the request or the account, so that asking again is of no use. */
const BLAMED = new Set([
  'invalid_request_error',
  'authentication_error',
  'permission_error',
  'not_found_error',
  'billing_error',
  'request_too_large',
]);

/** Client error statuses that pass by themselves; 499 is Google's "cancelled". */
const PASSING = new Set([408, 409, 425, 429, 499]);

/** An error inside a 200. Asking again helps unless the provider blames the request. */
export function inBandError(upstream: UpstreamDetail): ProviderError {
  const status = Number(upstream.code);
  const blamed =
    BLAMED.has(upstream.type ?? '') ||
    isOutOfMoney(upstream) ||
    (status >= 400 && status < 500 && !PASSING.has(status));
  return new ProviderError('upstream_error', { reason: 'in_band', retryable: !blamed, upstream });
}
