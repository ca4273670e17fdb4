import type { IncomingHttpHeaders } from 'undici/types/header.js';

/**
 * Returns the delay in milliseconds that a provider requests before a retry; undefined if it requests none.
 * Sources, the first one found counts:
 *
 * 1. `retry-after-ms` (Azure; may be 0)
 * 2. `retry-after`, in seconds or as an HTTP date
 * 3. Google's `RetryInfo.retryDelay` in the error document
 * 4. the longer one of `x-ratelimit-reset-requests` and `-tokens`, if they are durations (OpenAI: `6m0s`)
 */
export function retryDelay(headers: IncomingHttpHeaders, document: unknown): number | undefined {
  const header = (name: string) => {
    const value = headers[name];
    return typeof value === 'string' ? value.trim() : undefined;
  };
  return (
    parseNumber(header('retry-after-ms')) ??
    parseSecondsOrDate(header('retry-after')) ??
    parseDuration(findRetryInfo(document)) ??
    longerOf(parseDuration(header('x-ratelimit-reset-requests')), parseDuration(header('x-ratelimit-reset-tokens')))
  );
}

function longerOf(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : Math.max(a, b);
}

function parseNumber(value: string | undefined): number | undefined {
  return value !== undefined && /^\d+(\.\d+)?$/.test(value) ? Math.ceil(Number(value)) : undefined;
}

function parseSecondsOrDate(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const seconds = parseNumber(value);
  if (seconds !== undefined) return Math.ceil(Number(value) * 1000);
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

const UNITS_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;

/** Parses a duration such as `120ms`, `6m0s` or `48s` to milliseconds. */
function parseDuration(value: string | undefined): number | undefined {
  if (value === undefined || !/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(value)) return undefined;
  let sum = 0;
  for (const [, amount, unit] of value.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)) {
    sum += Number(amount) * UNITS_MS[unit as keyof typeof UNITS_MS];
  }
  return Math.ceil(sum);
}

function findRetryInfo(document: unknown): string | undefined {
  const details = (document as { error?: { details?: unknown } } | undefined)?.error?.details;
  if (!Array.isArray(details)) return undefined;
  for (const detail of details) if (typeof detail?.retryDelay === 'string') return detail.retryDelay;
  return undefined;
}
