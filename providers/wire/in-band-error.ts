import { ProviderError, type UpstreamDetail } from '../errors.ts';
import { type ErrorClass, errorClass } from './error-class.ts';
import { publicParam } from './refusal-param.ts';
import { refusalReason } from './refusal-reason.ts';

/** Labels of errors inside a stream, by class. `billing` and `credentials` also put the API key into a cooldown. */
const REASONS: Readonly<Record<ErrorClass, string>> = {
  billing: 'billing',
  credentials: 'credentials',
  rate_limit: 'rate_limited',
  overload: 'overloaded',
  request: 'in_band_request',
  provider: 'in_band',
};

/**
 * Converts an error inside a stream with status 200. The result is retryable if the error is about the rate of
 * calls, a busy server or the provider, or if neither its class nor the reason of a refusal is known.
 */
export function inBandError(upstream: UpstreamDetail): ProviderError {
  const refusal = refusalReason(upstream);
  const found = errorClass(upstream) ?? (refusal ? 'request' : 'provider');
  const retryable = found === 'rate_limit' || found === 'overload' || found === 'provider';
  return new ProviderError('upstream_error', {
    reason: REASONS[found],
    refusal,
    param: refusal && publicParam(upstream.param),
    retryable,
    upstream,
  });
}
