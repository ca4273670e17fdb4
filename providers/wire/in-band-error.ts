import { ProviderError, type UpstreamDetail } from '../errors.ts';
import { isOutOfCredit } from './classify-error.ts';

/** Types by which providers blame the request or the account, so that asking again is of no use. */
const PERMANENT_TYPES = new Set([
  'invalid_request_error',
  'authentication_error',
  'permission_error',
  'not_found_error',
  'billing_error',
  'request_too_large',
]);

/** Client error statuses that pass by themselves; 499 is Google's "cancelled". */
const TEMPORARY_STATUSES = new Set([408, 409, 425, 429, 499]);

/** An error inside a 200. Asking again helps unless the provider blames the request. */
export function inBandError(upstream: UpstreamDetail): ProviderError {
  const status = Number(upstream.code);
  const blamed =
    PERMANENT_TYPES.has(upstream.type ?? '') ||
    isOutOfCredit(upstream) ||
    (status >= 400 && status < 500 && !TEMPORARY_STATUSES.has(status));
  return new ProviderError('upstream_error', { reason: 'in_band', retryable: !blamed, upstream });
}
