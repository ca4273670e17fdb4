import { type EventDecoder, MAX_EVENT_CHARS, tooLargeError, type WireEvent } from './sse.ts';

/**
 * Creates a decoder from bytes to lines, each as an event without a name. The rest behind the last line break
 * is an event with `unterminated`, even if it is empty.
 * @throws ProviderError from `push` for a line longer than 16 Mi UTF-16 units
 */
export function createNdjsonDecoder(onLine: (event: WireEvent) => void): EventDecoder {
  const utf8 = new TextDecoder();
  let incompleteLine = '';

  return {
    push(bytes) {
      const lines = (incompleteLine + utf8.decode(bytes, { stream: true })).split('\n');
      incompleteLine = lines.pop() as string;
      for (const line of lines) onLine({ data: line });
      if (incompleteLine.length > MAX_EVENT_CHARS) throw tooLargeError();
    },
    end() {
      onLine({ data: incompleteLine + utf8.decode(), unterminated: true });
    },
  };
}
