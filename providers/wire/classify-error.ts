import type { IncomingHttpHeaders } from 'undici/types/header.js';
import type { UpstreamDetail } from '../errors.ts';

/** Recognizes errors whose status does not tell whether the question, the key or the account is at fault. */

/**
 * Returns true if only payment or a higher quota fixes the error. Anthropic sends it with status 400. Bella
 * sends only a message: `已达每月额度上限`, or `主ak的总额度已达上限` for a parent key.
 */
export function isOutOfCredit({ code, type, message = '' }: UpstreamDetail): boolean {
  return (
    code === 'insufficient_quota' ||
    type === 'insufficient_quota' ||
    /credit balance|额度.{0,4}上限|month\w* quota/i.test(message)
  );
}

/**
 * Returns true for a `rate_limit_error` of Anthropic that is a spending limit. Other rate limits have
 * `retry-after` or `x-should-retry: true`.
 */
export function isSpendCap(document: unknown, headers: IncomingHttpHeaders): boolean {
  if (headers['retry-after'] !== undefined || headers['x-should-retry'] === 'true') return false;
  if (!isRecord(document) || !isRecord(document.error)) return false;
  return document.type === 'error' && document.error.type === 'rate_limit_error';
}

/** Returns true if the error says that the key is invalid. Gemini and xAI send it with status 400. */
export function isBadKey({ message = '' }: UpstreamDetail, document: unknown): boolean {
  return (
    /^(api key (not valid|expired)|(incorrect|invalid) api key)/i.test(message) ||
    /API_KEY_INVALID/.test(errorDetails(document))
  );
}

function errorDetails(document: unknown): string {
  return isRecord(document) && isRecord(document.error) ? JSON.stringify(document.error.details ?? '') : '';
}

/** Returns true for objects and arrays. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
