/** Calls the service for everything but reading streams. */

const KEY = 'sluice-key';

/** An error response of the service. */
export class ServiceError extends Error {
  constructor(status, { code = 'internal', message = 'The service failed.' } = {}, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Stores the key until this tab is closed. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

async function call(path, init = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...init.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch {
    throw new ServiceError(0, { code: 'unreachable', message: 'The service is not reachable.' });
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok)
    throw new ServiceError(response.status, body.error, Number(response.headers.get('retry-after')) || undefined);
  return body;
}

/** Returns the public names of models, the default first. */
export async function models() {
  const { data } = await call('v1/models');
  return data.map(({ id }) => id).filter((id) => !id.endsWith('/*'));
}

/**
 * Starts the answer of a question and returns the URL that reads it. The same question with the same key is asked once.
 * @param {{ messages: object[], model: string, key: string }} asked
 */
export async function ask({ messages, model, key }) {
  const { url } = await call('streams', {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify({ messages, ...(model && { model }) }),
  });
  return url;
}
