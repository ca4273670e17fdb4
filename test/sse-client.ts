import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, type RequestOptions, request } from 'node:http';

/** An SSE client for tests. It follows the WHATWG rules and shares no code with the service. */

export interface Event {
  readonly id: string;
  readonly event: string;
  readonly data: string;
  /** The data, parsed as JSON; undefined if it is not JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests read events of every shape
  readonly json: any;
}

/** One response and the events received until now. */
export interface Reading {
  readonly response: IncomingMessage;
  /** Unnamed events, as `onmessage` of an EventSource receives them. */
  readonly events: Event[];
  /** Events with a name. */
  readonly named: Event[];
  readonly comments: string[];
  retry: number | undefined;
  /** Resolves when the response has ended: true if it is complete, false if the connection was cut. */
  readonly ended: Promise<boolean>;
  /** Waits for an event of this type; rejects if the response ends without one. */
  until(type: string): Promise<Event>;
  /** Closes the connection. */
  cut(): void;
}

/** Sends a request (a POST if there is a `body`, else a GET) and waits for the response headers. */
export async function open(url: string, options: RequestOptions & { body?: unknown } = {}): Promise<Reading> {
  const { body, ...rest } = options;
  const headers = { accept: 'text/event-stream', ...(body !== undefined && { 'content-type': 'application/json' }) };
  const outgoing: ClientRequest = request(url, {
    agent: false,
    method: body === undefined ? 'GET' : 'POST',
    ...rest,
    headers: { ...headers, ...rest.headers },
  });
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  return read(outgoing, response);
}

function read(outgoing: ClientRequest, response: IncomingMessage): Reading {
  const events: Event[] = [];
  const named: Event[] = [];
  const comments: string[] = [];
  const listeners = new Set<() => void>();
  const utf8 = new TextDecoder('utf-8', { fatal: true });
  let isOver = false;
  let unfinishedLine: string[] = [];
  let fields = { event: '', data: [] as string[] };
  let lastId = '';

  const wake = () => {
    for (const listener of listeners) listener();
  };
  const onLine = (line: string) => {
    if (line === '') {
      const data = fields.data.join('\n');
      if (fields.data.length > 0) {
        const event = { id: lastId, event: fields.event || 'message', data, json: parse(data) };
        (fields.event === '' ? events : named).push(event);
      }
      fields = { event: '', data: [] };
      return;
    }
    const colon = line.indexOf(':');
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (colon === 0) comments.push(value);
    else if (name === 'data') fields.data.push(value);
    else if (name === 'event') fields.event = value;
    else if (name === 'id') lastId = value;
    else if (name === 'retry') reading.retry = Number(value);
  };
  response.on('data', (bytes: Buffer) => {
    // The service ends lines with LF only. A line can have megabytes, so its pieces are joined once, at its end.
    const lines = utf8.decode(bytes, { stream: true }).split('\n');
    unfinishedLine.push(lines.shift() as string);
    if (lines.length === 0) return;
    onLine(unfinishedLine.join(''));
    unfinishedLine = [lines.pop() as string];
    for (const line of lines) onLine(line);
    wake();
  });
  response.on('error', () => {});
  outgoing.on('error', () => {});
  const ended = new Promise<boolean>((resolve) => {
    response.on('close', () => {
      isOver = true;
      wake();
      resolve(response.complete);
    });
  });

  const reading: Reading = {
    response,
    events,
    named,
    comments,
    retry: undefined,
    ended,
    until: (type) =>
      new Promise((resolve, reject) => {
        const check = () => {
          const found = events.find((event) => event.json?.type === type);
          if (found === undefined && !isOver) return;
          listeners.delete(check);
          if (found) resolve(found);
          else reject(new Error(`the response ended without ${type}: ${JSON.stringify(events.map((e) => e.json))}`));
        };
        listeners.add(check);
        check();
      }),
    cut: () => outgoing.destroy(),
  };
  return reading;
}

function parse(data: string): unknown {
  try {
    return JSON.parse(data);
  } catch {
    return undefined;
  }
}

/** Sends a request and reads the response to its end. */
export async function readAll(url: string, options: RequestOptions & { body?: unknown } = {}): Promise<Reading> {
  const reading = await open(url, options);
  await reading.ended;
  return reading;
}

/** Returns the text of all `delta` events. */
export function deltaText({ events }: Reading): string {
  return events.map(({ json }) => (json?.type === 'delta' ? json.content : '')).join('');
}
