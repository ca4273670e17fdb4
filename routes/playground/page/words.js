/** Tells what to do about an error, by its code. */

const HINTS = {
  unreachable: 'Check that the service is running, then ask again.',
  unauthorized: 'Enter a key below.',
  revoked: 'Enter a key below.',
  forbidden: 'Choose a model that this key may use.',
  rate_limited: 'Wait, then ask again.',
  overloaded: 'Ask again in a moment.',
  conflict: 'Ask again.',
  upstream_unreachable: 'Ask again, or choose another model.',
  upstream_timeout: 'Ask again, or choose another model.',
  upstream_rate_limited: 'Wait, or choose another model.',
  upstream_rejected: 'Check the provider’s API key and the name of the model.',
  upstream_failed: 'Ask again, or choose another model.',
  upstream_protocol: 'Choose another model.',
  upstream_truncated: 'The answer is incomplete. Ask for the rest.',
  upstream_error: 'Ask again, or choose another model.',
  limit_exceeded: 'The answer is longer than this service allows. Ask for a shorter one.',
  abandoned: 'Ask again.',
  stream_lost: 'Ask again.',
  stream_unknown: 'Ask again.',
  not_found: 'Ask again, or choose another model.',
};

/** @returns {string} */
export function hintFor({ code, retryAfter }) {
  const hint = HINTS[code] ?? 'Ask again. If this happens again, see the log of the service.';
  return retryAfter ? `${hint} (${retryAfter} s)` : hint;
}
