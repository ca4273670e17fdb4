import type { IncomingHttpHeaders } from 'undici/types/header.js';
import { ProviderError, type ProviderErrorCode, type UpstreamDetail } from '../errors.ts';
import { isBadKey, isOutOfCredit, isRecord, isSpendCap } from './classify-error.ts';
import { retryDelay } from './retry-delay.ts';

/** Client errors after which a retry may succeed. */
const TEMPORARY_STATUSES = new Set([408, 409, 425]);
/** Server errors after which a retry fails again. */
const PERMANENT_STATUSES = new Set([501, 505]);

/**
 * Converts an HTTP status of 400 or above into a `ProviderError`. An invalid key is recognized with
 * any 4xx status but 429. An error that only payment fixes is not retryable.
 * @param body the start of the response body; need not be JSON
 */
export function statusError(status: number, headers: IncomingHttpHeaders, body: string): ProviderError {
  const document = parseErrorBody(body);
  const upstream = upstreamDetail(document);
  const isRetryForbidden = headers['x-should-retry'] === 'false';

  const fault = (code: ProviderErrorCode, reason: string, mayPass: boolean) => {
    const retryable = mayPass && !isRetryForbidden;
    const retryAfterMs = retryable ? retryDelay(headers, document) : undefined;
    return new ProviderError(code, { upstreamStatus: status, upstream, reason, retryable, retryAfterMs });
  };

  if (status === 429) {
    return fault('upstream_rate_limited', 'http_429', !isOutOfCredit(upstream) && !isSpendCap(document, headers));
  }
  if (status >= 500) return fault('upstream_failed', `http_${status}`, !PERMANENT_STATUSES.has(status));
  if (status === 401 || status === 403 || isBadKey(upstream, document)) {
    return fault('upstream_rejected', 'credentials', false);
  }
  if (status === 402 || isOutOfCredit(upstream)) return fault('upstream_rejected', 'billing', false);
  return fault('upstream_rejected', `http_${status}`, TEMPORARY_STATUSES.has(status));
}

/** Extracts the provider's error text from a response body or an event. The place differs by provider. */
export function upstreamDetail(document: unknown): UpstreamDetail {
  if (typeof document === 'string') return { message: document };
  if (!isRecord(document)) return {};
  const inner = document.error ?? document;
  if (typeof inner === 'string') return pick(inner, document.type, document.code);
  if (!isRecord(inner)) return {};
  const message = inner.message ?? inner.detail ?? document.message ?? document.detail;
  return pick(typeof message === 'string' ? message : undefined, inner.type, codeOf(inner));
}

/**
 * Returns a numeric code if there is one. Bella and Groq send the status in another field if the code is a
 * word.
 */
function codeOf({ code, httpCode, status_code: status }: Record<string, unknown>): unknown {
  if (code !== undefined && code !== null && !Number.isNaN(Number(code))) return code;
  return httpCode ?? status ?? code;
}

function pick(message: string | undefined, type: unknown, code: unknown): UpstreamDetail {
  return {
    ...(message !== undefined && { message }),
    ...(typeof type === 'string' && { type }),
    ...((typeof code === 'string' || typeof code === 'number') && { code }),
  };
}

/** Parses an error body. Google's OpenAI-compatible endpoint sends an array with one error. */
function parseErrorBody(body: string): unknown {
  try {
    const document: unknown = JSON.parse(body);
    return Array.isArray(document) ? document[0] : document;
  } catch {
    return undefined; // For example, an HTML page of a proxy.
  }
}
