import { ProviderError } from '../errors.ts';
import { truncatedError } from './answer-end.ts';
import { inBandError } from './in-band-error.ts';
import type { WireEvent } from './sse.ts';

/**
 * Parses the JSON object in one event. `data` is the event's data, trimmed or not.
 * @throws ProviderError `upstream_error` for an `error` event without JSON, `upstream_truncated` for an event
 *   that was cut off, `upstream_protocol` for invalid JSON and for anything but an object
 */
export function parseEvent<T extends object>({ event, unterminated }: WireEvent, data: string): T {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch {
    if (event === 'error') throw inBandError({});
    if (unterminated) throw truncatedError();
    throw new ProviderError('upstream_protocol', { reason: 'bad_json', retryable: false });
  }
  if (typeof value === 'object' && value !== null) return value as T;
  throw new ProviderError('upstream_protocol', { reason: 'bad_chunk', retryable: false });
}

/**
 * Parses JSON text of a client, such as the arguments of a tool call. Returns `{}` if it is not a JSON object.
 */
export function parseObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {};
  } catch {
    return {};
  }
}

/** Returns true for an object that is not a list. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
