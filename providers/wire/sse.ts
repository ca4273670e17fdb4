import { createParser } from 'eventsource-parser';
import { ProviderError } from '../errors.ts';

/** One event of an upstream: an SSE event, or a line of NDJSON. */
export interface WireEvent {
  readonly event?: string | undefined;
  readonly data: string;
  /** True for a JSON document that stands in the stream without `data:`. */
  readonly isDocument?: boolean;
  /** True if the stream ended inside this event, which may be incomplete. */
  readonly unterminated?: boolean;
}

/** Decodes bytes into events. */
export interface EventDecoder {
  push(bytes: Uint8Array): void;
  /** Call once, after the last byte. */
  end(): void;
}

/**
 * Maximum length of an event in UTF-16 units, so that an endless line does not fill the memory. Twice the longest
 * answer of the default configuration: tool arguments and images come in one event.
 */
export const MAX_EVENT_CHARS = 16 * 1024 * 1024;

/**
 * Creates a decoder for SSE as WHATWG specifies it. Also accepts what some upstreams send:
 *
 * - A last event without a blank line (llama-server, Gemini) is delivered at the end.
 * - An SSE *field* `error:` (llama.cpp before September 2025, llama-box) becomes an `error` event.
 * - Events that are separated by one line break are told apart, because each line is JSON.
 * - A JSON document outside of the events becomes an event with `isDocument`: an error (Gemini, Vertex), or a
 *   whole answer.
 *
 * @throws ProviderError from `push` and `end` for an event longer than 16 Mi UTF-16 units
 */
export function createSseDecoder(onEvent: (event: WireEvent) => void): EventDecoder {
  // `stream: true` below joins a character that was split between two reads. Also removes the BOM.
  const utf8 = new TextDecoder();
  let isEnding = false;
  let strayText = '';

  const parser = createParser({
    maxBufferSize: MAX_EVENT_CHARS,
    onEvent({ event, data }) {
      if (strayText !== '') takeDocument();
      const wireEvent = isEnding ? { event, data, unterminated: true } : { event, data };
      if (data.includes('\n') && !isJson(data)) deliverLines(wireEvent);
      else onEvent(wireEvent);
    },
    onError(error) {
      if (error.type === 'max-buffer-size-exceeded') throw tooLargeError();
      if (error.type !== 'unknown-field') return;
      // A document begins with a brace. Its later lines may look like anything.
      if (error.field === 'error' && strayText === '') onEvent({ event: 'error', data: error.value ?? '' });
      else if (strayText !== '' || error.line?.trimStart().startsWith('{')) strayText += `${error.line}\n`;
      if (strayText.length > MAX_EVENT_CHARS) throw tooLargeError();
    },
  });

  /** Some servers separate events by one line break (eventsource-parser#31). They are one event, which is not JSON. */
  function deliverLines(event: WireEvent): void {
    for (const data of event.data.split('\n')) onEvent({ ...event, data });
  }

  /** Delivers a document that is complete. */
  function takeDocument(): void {
    if (!strayText.trimEnd().endsWith('}') || !isJson(strayText)) return;
    const data = strayText;
    strayText = '';
    onEvent({ data, isDocument: true });
  }

  return {
    push(bytes) {
      parser.feed(utf8.decode(bytes, { stream: true }));
    },
    end() {
      isEnding = true;
      parser.feed(`${utf8.decode()}\n\n`);
      takeDocument();
    },
  };
}

export function tooLargeError(): ProviderError {
  return new ProviderError('upstream_protocol', { reason: 'event_too_large', retryable: false });
}

/** Returns true for a complete JSON text. */
export function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
