import { type EventDecoder, MAX_EVENT_CHARS, tooLargeError, type WireEvent } from './sse.ts';

/**
 * Creates a decoder from bytes to lines, each as an event without a name. The rest behind the last line break
 * is an event with `unterminated`, even if it is empty.
 * @throws ProviderError from `push` for a line longer than 16 Mi UTF-16 units
 */
export function createNdjsonDecoder(onLine: (event: WireEvent) => void): EventDecoder {
  const utf8 = new TextDecoder();
  /** Pieces of the incomplete line. Joined once, because joining at each read would cost the square of the length. */
  let pieces: string[] = [];
  let length = 0;

  const takeLine = (end: string): string => {
    const line = pieces.join('') + end;
    pieces = [];
    length = 0;
    return line;
  };

  return {
    push(bytes) {
      const text = utf8.decode(bytes, { stream: true });
      let begin = 0;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', begin)) {
        const data = takeLine(text.slice(begin, end));
        begin = end + 1;
        onLine({ data });
      }
      pieces.push(text.slice(begin));
      length += text.length - begin;
      if (length > MAX_EVENT_CHARS) throw tooLargeError();
    },
    end() {
      onLine({ data: takeLine(utf8.decode()), unterminated: true });
    },
  };
}
