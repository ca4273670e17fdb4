import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { LookupFunction, Socket } from 'node:net';
import { createAllowedLookup } from '../../providers/addresses.ts';
import { openTunnel } from './tunnel.ts';

export interface PostOptions {
  readonly url: string;
  /** True to allow connections to the addresses that `addresses.ts` forbids. */
  readonly allowPrivate: boolean;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** URL of the HTTP proxy to connect through, which then resolves the host; undefined to connect directly. */
  readonly proxyUrl?: string | undefined;
  /** Resolves host names; by DNS if absent. */
  readonly lookup?: LookupFunction | undefined;
}

export interface Reply {
  readonly status: number;
  /** Value of `Retry-After` in milliseconds, if it is a number of seconds. */
  readonly retryAfterMs: number | undefined;
}

/** Bytes of a response that are read and dropped, so that the receiver can finish it. */
const MAX_RESPONSE_BYTES = 65_536;

/**
 * Posts JSON on a connection of its own. Resolves the host for each call, and connects only to an allowed address, unless a
 * proxy does so. Follows no redirect, and drops the body of the response.
 * @throws Error with a `code` if there is no response before `signal` aborts
 */
export async function post(options: PostOptions, signal: AbortSignal): Promise<Reply> {
  const { url, proxyUrl } = options;
  return postOn(options, proxyUrl === undefined ? undefined : await openTunnel(proxyUrl, url, signal), signal);
}

/** @param socket an open connection to the host; undefined to open one */
function postOn(
  { url, allowPrivate, headers, body, lookup }: PostOptions,
  socket: Socket | undefined,
  signal: AbortSignal,
): Promise<Reply> {
  const request = url.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    let reply: Reply | undefined;
    const options = {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'content-length': String(Buffer.byteLength(body)),
        'user-agent': 'sluice',
        connection: 'close',
        // On a connection of its own, Node does not know the default port.
        host: new URL(url).host,
        ...headers,
      },
      lookup: allowPrivate ? lookup : createAllowedLookup(lookup),
      ...(socket === undefined ? { agent: false as const } : { createConnection: () => socket }),
      signal,
    };
    const outgoing = request(url, options, (response) => {
      const { statusCode: status = 0, headers: received } = response;
      const seconds = received['retry-after'] ?? '';
      const retryAfterMs = /^\d{1,9}$/.test(seconds) ? Number(seconds) * 1_000 : undefined;
      reply = { status, retryAfterMs };
      let bytes = 0;
      response.on('error', () => {}); // The status has arrived, and nothing else matters.
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > MAX_RESPONSE_BYTES) response.destroy();
      });
      response.on('close', () => resolve({ status, retryAfterMs }));
    });
    // A receiver that never ends its response has given its status all the same.
    outgoing.on('error', (error) => (reply === undefined ? reject(error) : resolve(reply)));
    outgoing.end(body);
  });
}
