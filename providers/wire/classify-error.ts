import type { IncomingHttpHeaders } from 'undici/types/header.js';
import type { UpstreamDetail } from '../errors.ts';

/** Whom a provider's error blames, where its status does not say. */

/**
 * Money alone mends it. Anthropic says so with 400, Bella in words only: `已达每月额度上限`, and for a
 * parent key `主ak的总额度已达上限`.
 */
export function isOutOfCredit({ code, type, message = '' }: UpstreamDetail): boolean {
  return (
    code === 'insufficient_quota' ||
    type === 'insufficient_quota' ||
    /credit balance|额度.{0,4}上限|month\w* quota/i.test(message)
  );
}

/** Anthropic says when to come back, unless what is reached is the limit of what may be spent. */
export function isSpendCap(document: unknown, headers: IncomingHttpHeaders): boolean {
  if (headers['retry-after'] !== undefined || headers['x-should-retry'] === 'true') return false;
  if (!isRecord(document) || !isRecord(document.error)) return false;
  return document.type === 'error' && document.error.type === 'rate_limit_error';
}

/** Gemini and xAI answer 400 to a bad key. */
export function isBadKey({ message = '' }: UpstreamDetail, document: unknown): boolean {
  return (
    /^(api key (not valid|expired)|(incorrect|invalid) api key)/i.test(message) ||
    /API_KEY_INVALID/.test(details(document))
  );
}

function details(document: unknown): string {
  return isRecord(document) && isRecord(document.error) ? JSON.stringify(document.error.details ?? '') : '';
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
