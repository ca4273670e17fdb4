/** Decoders of Server-Sent Events as clients have them, as small functions. Each reads a sequence of connections. */

/** An event as a page gets it from a decoder. */
export interface Decoded {
  readonly data: string;
  readonly name: string;
}

export interface Decoder {
  /** Reads the bytes of one connection, which ends behind them, and returns its events. @throws as the client does */
  connection(bytes: Buffer, isClean: boolean): Decoded[];
  /** The `Last-Event-ID` of the next request. */
  readonly lastEventId: string;
}

interface Fields {
  data: string[];
  name: string;
}

const splitField = (line: string): [name: string, value: string] => {
  const colon = line.indexOf(':');
  return colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')];
};

/** The HTML standard, as Chromium and Firefox do it: a half-received event is dropped with its connection. */
export function whatwgDecoder(): Decoder {
  let lastEventId = '';
  return {
    connection(bytes) {
      const events: Decoded[] = [];
      let fields: Fields = { data: [], name: '' };
      let id = lastEventId;
      for (const line of completeLines(bytes.toString())) {
        const [field, value] = splitField(line);
        if (field === 'data') fields.data.push(value);
        if (field === 'event') fields.name = value;
        if (field === 'id') id = value;
        if (line !== '') continue;
        lastEventId = id;
        if (fields.data.length > 0) events.push({ data: fields.data.join('\n'), name: fields.name });
        fields = { data: [], name: '' };
      }
      return events;
    },
    get lastEventId() {
      return lastEventId;
    },
  };
}

/**
 * Emits at every blank line, with whatever fields there were, and resumes behind an id as soon as it has its line: as
 * @microsoft/fetch-event-source. openai-go up to 3.42 and httpx-sse emit likewise.
 */
export function everyBlankLineDecoder(): Decoder {
  let lastEventId = '';
  return {
    connection(bytes) {
      const events: Decoded[] = [];
      let fields: Fields = { data: [], name: '' };
      for (const line of completeLines(bytes.toString())) {
        const [field, value] = splitField(line);
        if (field === 'data') fields.data.push(value);
        if (field === 'event') fields.name = value;
        if (field === 'id') lastEventId = value;
        if (line !== '') continue;
        events.push({ data: fields.data.join('\n'), name: fields.name });
        fields = { data: [], name: '' };
      }
      return events;
    },
    get lastEventId() {
      return lastEventId;
    },
  };
}

/** Splits lines as Python's `str.splitlines`, parses each `data` line alone, and refuses a line that is no field. */
export function pythonLinesDecoder(): Decoder {
  let lastEventId = '';
  return {
    connection(bytes) {
      const events: Decoded[] = [];
      let name = '';
      // biome-ignore lint/suspicious/noControlCharactersInRegex: Python splits at them
      const lines = bytes.toString().split(/\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/);
      for (const line of lines.slice(0, -1)) {
        if (line === '') name = '';
        else if (line.startsWith('data: ')) events.push({ data: line.slice('data: '.length), name });
        else if (line.startsWith('event: ')) name = line.slice('event: '.length);
        else if (line.startsWith('id:')) lastEventId = line.slice('id:'.length).trim();
        else if (!/^(retry: \d+|: ?\w*)$/.test(line)) throw new Error(`no field: ${line}`);
      }
      return events;
    },
    get lastEventId() {
      return lastEventId;
    },
  };
}

/** WebKit's `EventSource`: a broken connection keeps its buffer, data, name and id, and the next one goes on behind them. */
export function webkitDecoder(): Decoder {
  let lastEventId = '';
  let buffer = '';
  let data = '';
  let name = '';
  let id: string | undefined;
  let utf8 = new TextDecoder();
  return {
    connection(bytes, isClean) {
      const events: Decoded[] = [];
      const lines = (buffer + utf8.decode(bytes, { stream: true })).split('\n');
      buffer = lines.pop() as string;
      for (const line of lines) {
        const [field, value] = splitField(line);
        if (field === 'data') data += `${value}\n`;
        if (field === 'event') name = value;
        if (field === 'id') id = value;
        if (line !== '') continue;
        if (data !== '') {
          lastEventId = id ?? lastEventId;
          id = undefined;
          events.push({ data: data.slice(0, -1), name });
        }
        data = '';
        name = '';
      }
      if (isClean && (buffer !== '' || data !== '')) {
        buffer = '';
        data = '';
        name = '';
        id = undefined;
        utf8 = new TextDecoder();
      }
      return events;
    },
    get lastEventId() {
      return lastEventId;
    },
  };
}

function completeLines(text: string): string[] {
  return text.split('\n').slice(0, -1);
}
