/** What the page asks of the service beside reading streams. */

const KEY = 'sluice-key';

/** A refusal, in the service's own words. */
export class Refusal extends Error {
  constructor(status, { code = 'internal', message = 'Something went wrong.' } = {}, retryAfter) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The key stays in this tab, and goes with it. */
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
    throw new Refusal(0, { code: 'unreachable', message: 'The service cannot be reached.' });
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok)
    throw new Refusal(response.status, body.error, Number(response.headers.get('retry-after')) || undefined);
  return body;
}

/** Public names of models, the default first. */
export async function models() {
  const { data } = await call('v1/models');
  return data.map(({ id }) => id).filter((id) => !id.endsWith('/*'));
}

/** Asks, and returns the URL at which the answer is read. */
export async function ask(messages, model) {
  const { url } = await call('streams', {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': crypto.randomUUID?.() ?? String(Math.random()) },
    body: JSON.stringify({ messages, ...(model && { model }) }),
  });
  return url;
}
