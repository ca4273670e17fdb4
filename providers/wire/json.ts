import { ProviderError } from '../errors.ts';
import { inBandError } from './in-band-error.ts';
import { truncatedError } from './read-answer.ts';
import type { WireEvent } from './sse.ts';

/**
 * The JSON object in one event.
 * @throws ProviderError that says whether the event was cut short, an error, or nonsense
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

/** JSON text that a client wrote, such as a tool call's arguments, as an object; `{}` where it is none. */
export function parseObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {};
  } catch {
    return {};
  }
}
