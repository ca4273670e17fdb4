import type { IncomingHttpHeaders } from 'undici/types/header.js';
import { ProviderError, type UpstreamDetail } from '../errors.ts';
import { retryDelay } from './retry-delay.ts';

/**
 * An HTTP status of 400 and above as a `ProviderError`, by the classes of the provider wire sheets:
 * a bad key stays a bad key under whichever status it comes, and what money alone can mend is not
 * retried.
 */
export function statusError(status: number, headers: IncomingHttpHeaders, body: string): ProviderError {
  const document = parse(body);
  const upstream = upstreamDetail(document);
  const shared = { upstreamStatus: status, upstream };

  if (status === 429) {
    const retryable =
      !isOutOfMoney(upstream) && !isSpendCap(document, headers) && headers['x-should-retry'] !== 'false';
    const retryAfterMs = retryable ? retryDelay(headers, document) : undefined;
    return new ProviderError('upstream_rate_limited', { ...shared, reason: 'http_429', retryable, retryAfterMs });
  }
  if (status >= 500) {
    const retryable = status !== 501 && status !== 505 && headers['x-should-retry'] !== 'false';
    const retryAfterMs = retryable ? retryDelay(headers, document) : undefined;
    return new ProviderError('upstream_failed', { ...shared, reason: `http_${status}`, retryable, retryAfterMs });
  }
  if (status === 401 || status === 403 || isBadKey(upstream, document)) {
    return new ProviderError('upstream_rejected', { ...shared, reason: 'credentials', retryable: false });
  }
  const retryable = status === 408 || status === 409 || status === 425;
  return new ProviderError('upstream_rejected', { ...shared, reason: `http_${status}`, retryable });
}

/** The error that a provider put into a body or an event, wherever it keeps it. */
export function upstreamDetail(document: unknown): UpstreamDetail {
  if (typeof document === 'string') return { message: document };
  if (!isRecord(document)) return {};
  const inner = document.error ?? document;
  if (typeof inner === 'string') return pick(inner, document.type, document.code);
  if (!isRecord(inner)) return {};
  const message = inner.message ?? inner.detail ?? document.message ?? document.detail;
  return pick(typeof message === 'string' ? message : undefined, inner.type, inner.code);
}

function pick(message: string | undefined, type: unknown, code: unknown): UpstreamDetail {
  return {
    ...(message !== undefined && { message }),
    ...(typeof type === 'string' && { type }),
    ...((typeof code === 'string' || typeof code === 'number') && { code }),
  };
}

/** Bella's quota of a month says so in words only. */
function isOutOfMoney({ code, type, message = '' }: UpstreamDetail): boolean {
  return (
    code === 'insufficient_quota' ||
    type === 'insufficient_quota' ||
    /月.{0,4}(额度|配额)|month\w* quota/i.test(message)
  );
}

/** Anthropic says when to come back, unless what is reached is the limit of what may be spent. */
function isSpendCap(document: unknown, headers: IncomingHttpHeaders): boolean {
  if (headers['retry-after'] !== undefined || !isRecord(document) || !isRecord(document.error)) return false;
  return document.type === 'error' && document.error.type === 'rate_limit_error';
}

/** Gemini and xAI answer 400 to a bad key. */
function isBadKey({ message = '' }: UpstreamDetail, document: unknown): boolean {
  return (
    /api key (not valid|expired)|(incorrect|invalid) api key/i.test(message) ||
    /API_KEY_INVALID/.test(details(document))
  );
}

function details(document: unknown): string {
  return isRecord(document) && isRecord(document.error) ? JSON.stringify(document.error.details ?? '') : '';
}

function parse(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined; // An HTML page from a proxy, say.
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
