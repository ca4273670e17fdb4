import type { IncomingHttpHeaders } from 'undici/types/header.js';
import { ProviderError, type ProviderErrorCode, type UpstreamDetail } from '../errors.ts';
import { isBadKey, isOutOfCredit, isRecord, isSpendCap } from './classify-error.ts';
import { retryDelay } from './retry-delay.ts';

/** Client errors that pass by themselves. */
const TEMPORARY_STATUSES = new Set([408, 409, 425]);
/** Server errors that do not. */
const PERMANENT_STATUSES = new Set([501, 505]);

/**
 * An HTTP status of 400 and above as a `ProviderError`, by the classes of the provider wire sheets:
 * a bad key stays a bad key under whichever status it comes, and what money alone can mend is not
 * retried.
 */
export function statusError(status: number, headers: IncomingHttpHeaders, body: string): ProviderError {
  const document = parse(body);
  const upstream = upstreamDetail(document);
  const refused = headers['x-should-retry'] === 'false';

  const fault = (code: ProviderErrorCode, reason: string, passes: boolean) => {
    const retryable = passes && !refused;
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

/** The error that a provider put into a body or an event, wherever it keeps it. */
export function upstreamDetail(document: unknown): UpstreamDetail {
  if (typeof document === 'string') return { message: document };
  if (!isRecord(document)) return {};
  const inner = document.error ?? document;
  if (typeof inner === 'string') return pick(inner, document.type, document.code);
  if (!isRecord(inner)) return {};
  const message = inner.message ?? inner.detail ?? document.message ?? document.detail;
  return pick(typeof message === 'string' ? message : undefined, inner.type, codeOf(inner));
}

/** Bella and Groq name the status beside a code that is a word. */
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

/** Google's compatible endpoint puts its error into an array. */
function parse(body: string): unknown {
  try {
    const document: unknown = JSON.parse(body);
    return Array.isArray(document) ? document[0] : document;
  } catch {
    return undefined; // An HTML page from a proxy, say.
  }
}
