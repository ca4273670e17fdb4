import { createParser } from 'eventsource-parser';
import { ProviderError } from '../errors.ts';

/** One event of an upstream: an SSE event, or a line of NDJSON. */
export interface WireEvent {
  readonly event?: string | undefined;
  readonly data: string;
  /** True if the stream ended inside this event, which may be incomplete. */
  readonly unterminated?: boolean;
}

/** Decodes bytes into events. */
export interface EventDecoder {
  push(bytes: Uint8Array): void;
  /** Call once, after the last byte. */
  end(): void;
}

/** Maximum length of an event in UTF-16 units, so that an endless line does not fill the memory. */
const MAX_EVENT_CHARS = 1024 * 1024;
/** Maximum length of text outside of events that is examined, in UTF-16 units. */
const MAX_STRAY_CHARS = 64 * 1024;

/**
 * Creates a decoder for SSE as WHATWG specifies it. Also accepts what some upstreams send:
 *
 * - A last event without a blank line (llama-server, Gemini) is delivered at the end.
 * - An SSE *field* `error:` (llama.cpp before September 2025, llama-box) becomes an `error` event.
 * - A JSON document after the events, outside of them (Gemini, Vertex), becomes an `error` event at the end.
 *
 * @throws ProviderError from `push` and `end` for an event longer than 1 Mi UTF-16 units
 */
export function createSseDecoder(onEvent: (event: WireEvent) => void): EventDecoder {
  // `stream: true` below joins a character that was split between two reads. Also removes the BOM.
  const utf8 = new TextDecoder();
  let isEnding = false;
  let strayText = '';

  const parser = createParser({
    maxBufferSize: MAX_EVENT_CHARS,
    onEvent: ({ event, data }) => onEvent(isEnding ? { event, data, unterminated: true } : { event, data }),
    onError(error) {
      if (error.type === 'max-buffer-size-exceeded') {
        throw new ProviderError('upstream_protocol', { reason: 'event_too_large', retryable: false });
      }
      if (error.type !== 'unknown-field') return;
      if (error.field === 'error') onEvent({ event: 'error', data: error.value ?? '' });
      else if (strayText.length < MAX_STRAY_CHARS) strayText += `${error.line}\n`;
    },
  });

  return {
    push(bytes) {
      parser.feed(utf8.decode(bytes, { stream: true }));
    },
    end() {
      isEnding = true;
      parser.feed(`${utf8.decode()}\n\n`);
      if (isJsonObject(strayText)) onEvent({ event: 'error', data: strayText });
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
