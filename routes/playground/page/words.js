/** What to do about an error, by its code. */

const WORDS = {
  unreachable: 'Is the service running? Ask again when it is.',
  unauthorized: 'Enter a key below.',
  forbidden: 'This key may not use this model: pick another one.',
  rate_limited: 'This key has used up its share for now: wait, then ask again.',
  overloaded: 'The service is busy: ask again in a moment.',
  conflict: 'Ask again.',
  upstream_unreachable: 'The provider could not be reached. Ask again, or pick another model.',
  upstream_timeout: 'The provider took too long. Ask again, or pick another model.',
  upstream_rate_limited: 'The provider limits this service: wait, or pick another model.',
  upstream_rejected: 'The provider refused the question. Is its key right, and does it have this model?',
  upstream_failed: 'The provider has a fault. Ask again, or pick another model.',
  upstream_protocol: 'The provider sent something unreadable. Pick another model.',
  upstream_truncated: 'The provider broke off. Ask again for the rest.',
  upstream_error: 'The provider reported a fault. Ask again, or pick another model.',
  limit_exceeded: 'The answer is longer than this service allows: ask for less.',
  abandoned: 'Nobody was reading, so it was ended. Ask again.',
  stream_lost: 'The replica that produced it is gone. Ask again.',
  stream_unknown: 'This answer is not kept any more. Ask again.',
  not_found: 'This answer, or this model, is not there any more.',
};

/** @returns {string} */
export function whatToDo({ code, retryAfter }) {
  const words = WORDS[code] ?? 'Ask again; if it stays, the log of the service says why.';
  return retryAfter ? `${words} (${retryAfter} s)` : words;
}
