import { ProviderError } from '../errors.ts';
import type { EventDecoder, WireEvent } from './sse.ts';

/** Longest line, in UTF-16 units. */
const MAX_LINE = 1024 * 1024;

/** Bytes to lines of JSON, as events without a name; a last line without its end is marked as such. */
export function createNdjsonDecoder(onLine: (event: WireEvent) => void): EventDecoder {
  const utf8 = new TextDecoder();
  let rest = '';

  return {
    push(bytes) {
      const lines = (rest + utf8.decode(bytes, { stream: true })).split('\n');
      rest = lines.pop() as string;
      for (const line of lines) onLine({ data: line });
      if (rest.length > MAX_LINE) {
        throw new ProviderError('upstream_protocol', { reason: 'event_too_large', retryable: false });
      }
    },
    end() {
      onLine({ data: rest + utf8.decode(), unterminated: true });
    },
  };
}
