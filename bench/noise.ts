import { createServer, request as httpRequest, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setPriority } from 'node:os';

/**
 * The noisy neighbour of `neighbour.ts`, a process of its own: sends the most expensive requests that a key may send,
 * right and wrong, as fast as it can. Its provider runs here, too, so that it takes nothing from the other key's.
 *
 * The parent sends `{ url, key, seconds, only }`; the answer is the number of responses by kind and status.
 */

interface Order {
  readonly url: string;
  readonly key: string;
  readonly seconds: number;
  /** Name of the only kind to send; all if absent. */
  readonly only?: string | undefined;
}

const MEGABYTE = 1_000_000;
/** The default bounds of one body, with room for the rest of the question. */
const BODY_BYTES = 16.5 * MEGABYTE;
const TEXT_CHARS = 4.1 * MEGABYTE;
const SEPARATORS = 199_000;
/** Characters of one answer of the provider. */
const ANSWER_CHARS = 2 * MEGABYTE;
const CHUNK = 'x'.repeat(1_000);

/** Runs behind everything else, so that it takes no time from the processes that measure. */
setPriority(10);

const chunk = `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: CHUNK }, finish_reason: null }] })}\n\n`;
const end = `data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] })}\n\ndata: [DONE]\n\n`;

/** Answers every question with a long answer, as fast as it is read. */
const provider = createServer((request, response) => {
  request.resume().on('end', () => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    let rest = ANSWER_CHARS / CHUNK.length;
    const write = () => {
      while (rest > 0) {
        rest -= 1;
        if (!response.write(chunk)) return void response.once('drain', write);
      }
      response.end(end);
    };
    write();
  });
  response.on('error', () => {});
});

/** Returns a body of `/v1/chat/completions` with more fields. */
const chat = (fields: string, stream = true) =>
  Buffer.from(`{"model":"noisy","stream":${stream},"messages":[{"role":"user","content":"x"}]${fields}}`);
const repeat = (count: number, item: (i: number) => string) => Array.from({ length: count }, (_, i) => item(i)).join();
const longKey = (i: number) => `"k${i}${'x'.repeat(150)}":0`;
const text = (characters: number) =>
  Buffer.from(`{"model":"noisy","messages":[{"role":"user","content":"${'x'.repeat(characters)}"}]}`);
const image = (bytes: number) =>
  `[{"type":"image_url","image_url":{"url":"data:image/png;base64,${'A'.repeat(bytes)}"}}]`;
const manyParts = repeat(900, () => `{"role":"user","content":[${repeat(30, () => '{"type":"text","text":"x"}')}]}`);
const tools = repeat(900, (i) => {
  const properties = repeat(25, (n) => `"p${n}":{"type":"string","description":"x"}`);
  return `{"type":"function","function":{"name":"f${i}","parameters":{"type":"object","properties":{${properties}}}}}`;
});

/** Bodies right under and right over the bounds, and wrong ones whose fault is at their end. */
const BODIES: readonly Buffer[] = [
  chat(`,"x":{${repeat(SEPARATORS / 2, longKey)}}`),
  chat(`,"x":{${repeat(SEPARATORS / 2 + 10_000, longKey)}}`),
  chat(`,"x":[${repeat(SEPARATORS / 3, (i) => `{"a${i}":0}`)}]`),
  chat(`,"x":{${repeat(SEPARATORS / 2, longKey)}`),
  text(TEXT_CHARS),
  text(TEXT_CHARS + MEGABYTE),
  Buffer.from(`{"model":"noisy","messages":[{"role":"user","content":${image(BODY_BYTES)}}]}`),
  Buffer.from(`{"model":"noisy","messages":[{"role":"user","content":${image(BODY_BYTES)}}]`),
  Buffer.from(`{"model":"noisy","messages":[{"role":"user","content":"${'\\"'.repeat(BODY_BYTES / 2)}"}]}`),
  Buffer.from(`{"model":"noisy","messages":[${manyParts}]}`),
  chat(`,"tools":[${tools}]`),
  chat(' '.repeat(BODY_BYTES)),
];

type Send = (method: string, path: string, options?: SendOptions) => Promise<number>;

interface SendOptions {
  readonly headers?: OutgoingHttpHeaders;
  readonly body?: Buffer;
  /** False for a request without the key. */
  readonly isAuthenticated?: boolean;
  /** Bytes after which the client disconnects. */
  readonly leaveAfter?: number;
  onResponse?(response: IncomingMessage): void;
}

/** A kind of request: how many are sent at the same time, and one of them. */
interface Kind {
  readonly connections: number;
  once(send: Send, n: number): Promise<number>;
}

const JSON_HEADERS = { 'content-type': 'application/json' };
const UNKNOWN = 'A'.repeat(22);
let longStream = UNKNOWN;

const KINDS: Readonly<Record<string, Kind>> = {
  bodies: {
    connections: 8,
    once: (send, n) =>
      send('POST', '/v1/chat/completions', { headers: JSON_HEADERS, body: BODIES[n % BODIES.length] as Buffer }),
  },
  prompts: {
    connections: 4,
    once: (send) =>
      send('POST', '/streams', {
        headers: JSON_HEADERS,
        body: Buffer.from(`{"model":"noisy","question":"${'x'.repeat(1_000_000)}"}`),
      }),
  },
  answers: {
    connections: 4,
    once: (send) => send('POST', '/v1/chat/completions', { headers: JSON_HEADERS, body: chat('', false) }),
  },
  readers: { connections: 20, once: (send) => send('GET', `/streams/${longStream}`) },
  reconnects: {
    connections: 10,
    once: (send, n) =>
      send('GET', `/streams/${longStream}`, {
        headers: { 'last-event-id': `${longStream}.${n % 100}` },
        leaveAfter: 1,
      }),
  },
  unknown: { connections: 8, once: (send) => send('GET', `/streams/${UNKNOWN}`) },
  tickets: {
    connections: 8,
    once: (send) =>
      send('GET', `/ask/stream?question=x&ticket=${'x'.repeat(300)}.${UNKNOWN}`, { isAuthenticated: false }),
  },
  refused: {
    connections: 8,
    once: (send) =>
      send('POST', '/ask/stream', { headers: JSON_HEADERS, body: Buffer.from('{"question":"x","model":"no/such"}') }),
  },
};

/** Sends requests of all kinds until the time is over, and returns the number of responses by kind and status. */
async function makeNoise({ url, key, seconds, only }: Order): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  const endsAt = performance.now() + seconds * 1_000;
  const send: Send = (method, path, options = {}) => sendOnce(url, key, method, path, options);
  await startLongStream(url, key);
  const run = async (name: string, { once }: Kind, first: number) => {
    for (let n = first; performance.now() < endsAt; n++) {
      const status = await once(send, n);
      const counter = `${name} ${status}`;
      counts[counter] = (counts[counter] ?? 0) + 1;
      // A refused connection must not become a loop without an end.
      if (status === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const chosen = Object.entries(KINDS).filter(([name]) => only === undefined || name === only);
  await Promise.all(
    chosen.flatMap(([name, kind]) => Array.from({ length: kind.connections }, (_, i) => run(name, kind, i))),
  );
  return counts;
}

/** Starts the answer that many readers read. */
async function startLongStream(url: string, key: string): Promise<void> {
  const response = await fetch(`${url}/streams`, {
    method: 'POST',
    headers: { ...JSON_HEADERS, authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: 'noisy', question: 'x' }),
  });
  longStream = ((await response.json()) as { id?: string }).id ?? UNKNOWN;
}

/** Sends one request, reads its response, and returns the status; 0 if the connection was closed before. */
function sendOnce(url: string, key: string, method: string, path: string, options: SendOptions): Promise<number> {
  const { headers, body, isAuthenticated = true, leaveAfter = Number.POSITIVE_INFINITY } = options;
  return new Promise((resolve) => {
    const outgoing = httpRequest(url + path, {
      agent: false,
      method,
      headers: {
        ...headers,
        ...(isAuthenticated && { authorization: `Bearer ${key}` }),
        ...(body && { 'content-length': body.length }),
      },
    });
    let status = 0;
    outgoing.on('response', (response) => {
      status = response.statusCode ?? 0;
      let bytes = 0;
      response.on('data', (data: Buffer) => {
        bytes += data.length;
        if (bytes >= leaveAfter) outgoing.destroy();
      });
      response.on('error', () => {});
    });
    outgoing.on('error', () => {});
    outgoing.on('close', () => resolve(status));
    outgoing.end(body);
  });
}

process.on('message', async (order: Order) => {
  process.send?.(await makeNoise(order));
});
process.on('disconnect', () => process.exit());
provider.listen(0, '127.0.0.1', () => process.send?.({ port: (provider.address() as AddressInfo).port }));
