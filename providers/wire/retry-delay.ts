import type { IncomingHttpHeaders } from 'undici/types/header.js';

/**
 * How long a provider asks to wait, in milliseconds, or undefined where it does not say. In this
 * order: `retry-after-ms` (Azure; may be 0), `retry-after` (seconds or an HTTP date), Google's
 * `RetryInfo.retryDelay`, the longer `x-ratelimit-reset-*` where these are durations (OpenAI: `6m0s`).
 */
export function retryDelay(headers: IncomingHttpHeaders, document: unknown): number | undefined {
  const header = (name: string) => {
    const value = headers[name];
    return typeof value === 'string' ? value.trim() : undefined;
  };
  return (
    milliseconds(header('retry-after-ms')) ??
    secondsOrDate(header('retry-after')) ??
    duration(retryInfo(document)) ??
    longer(duration(header('x-ratelimit-reset-requests')), duration(header('x-ratelimit-reset-tokens')))
  );
}

function longer(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : Math.max(a, b);
}

function milliseconds(value: string | undefined): number | undefined {
  return value !== undefined && /^\d+(\.\d+)?$/.test(value) ? Math.ceil(Number(value)) : undefined;
}

function secondsOrDate(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const seconds = milliseconds(value);
  if (seconds !== undefined) return Math.ceil(Number(value) * 1000);
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;

/** `120ms`, `6m0s`, `48s`. */
function duration(value: string | undefined): number | undefined {
  if (value === undefined || !/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(value)) return undefined;
  let sum = 0;
  for (const [, amount, unit] of value.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)) {
    sum += Number(amount) * UNITS[unit as keyof typeof UNITS];
  }
  return Math.ceil(sum);
}

function retryInfo(document: unknown): string | undefined {
  const details = (document as { error?: { details?: unknown } } | undefined)?.error?.details;
  if (!Array.isArray(details)) return undefined;
  for (const detail of details) if (typeof detail?.retryDelay === 'string') return detail.retryDelay;
  return undefined;
}
