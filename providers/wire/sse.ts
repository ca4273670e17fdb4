import { createParser } from 'eventsource-parser';
import { ProviderError } from '../errors.ts';

export interface WireEvent {
  readonly event?: string | undefined;
  readonly data: string;
  /** The stream ended inside this event: it may be cut short. */
  readonly unterminated?: boolean;
}

export interface EventDecoder {
  push(bytes: Uint8Array): void;
  /** Call once, after the last byte. */
  end(): void;
}

/** Longest event, in UTF-16 units: a line without end must not fill the memory. */
const MAX_EVENT = 1024 * 1024;
/** Longest document outside of any event that is looked at, in UTF-16 units. */
const MAX_STRAY = 64 * 1024;

/**
 * Bytes to events, by the WHATWG rules, and what upstreams were seen to send beside them:
 *
 * - a last event without its blank line (llama-server, Gemini) is delivered at the end;
 * - an SSE *field* `error:` (llama.cpp before September 2025, llama-box) becomes an `error` event;
 * - a bare JSON document after the events (Gemini, Vertex) becomes an `error` event at the end.
 */
export function createSseDecoder(onEvent: (event: WireEvent) => void): EventDecoder {
  // `stream: true` keeps a character that was cut between reads; the BOM goes too.
  const utf8 = new TextDecoder();
  let ending = false;
  let stray = '';

  const parser = createParser({
    maxBufferSize: MAX_EVENT,
    onEvent: ({ event, data }) => onEvent(ending ? { event, data, unterminated: true } : { event, data }),
    onError(error) {
      if (error.type === 'max-buffer-size-exceeded') {
        throw new ProviderError('upstream_protocol', { reason: 'event_too_large', retryable: false });
      }
      if (error.type !== 'unknown-field') return;
      if (error.field === 'error') onEvent({ event: 'error', data: error.value ?? '' });
      else if (stray.length < MAX_STRAY) stray += `${error.line}\n`;
    },
  });

  return {
    push(bytes) {
      parser.feed(utf8.decode(bytes, { stream: true }));
    },
    end() {
      ending = true;
      parser.feed(`${utf8.decode()}\n\n`);
      if (isJsonObject(stray)) onEvent({ event: 'error', data: stray });
    },
  };
}

function isJsonObject(text: string): boolean {
  if (!text.trimStart().startsWith('{')) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
