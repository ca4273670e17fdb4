/** Calls the service for everything but questions, and tells the client how to reach it. */

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

/** Returns the options of the client: the service is beside the page, and gets the key that was entered. */
export function connection() {
  const key = sessionStorage.getItem(KEY);
  return { url: '.', ...(key && { ticket: () => key }) };
}

async function call(path) {
  const key = sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, { headers: key ? { authorization: `Bearer ${key}` } : {} });
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
