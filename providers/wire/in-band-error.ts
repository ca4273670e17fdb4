import { ProviderError, type UpstreamDetail } from '../errors.ts';
import { isOutOfCredit } from './classify-error.ts';

/** Error types that concern the request or the account. A retry fails again. */
const PERMANENT_TYPES = new Set([
  'invalid_request_error',
  'authentication_error',
  'permission_error',
  'not_found_error',
  'billing_error',
  'request_too_large',
]);

/** Client error statuses after which a retry may succeed. 499 is Google's "cancelled". */
const TEMPORARY_STATUSES = new Set([408, 409, 425, 429, 499]);

/**
 * Converts an error inside a stream with status 200. The result is retryable unless the error concerns the
 * request or the account.
 */
export function inBandError(upstream: UpstreamDetail): ProviderError {
  const status = Number(upstream.code);
  const isPermanent =
    PERMANENT_TYPES.has(upstream.type ?? '') ||
    isOutOfCredit(upstream) ||
    (status >= 400 && status < 500 && !TEMPORARY_STATUSES.has(status));
  return new ProviderError('upstream_error', { reason: 'in_band', retryable: !isPermanent, upstream });
}
