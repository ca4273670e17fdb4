import { subscribe } from 'node:diagnostics_channel';
import { lookup } from 'node:dns';
import type { LookupFunction, Socket } from 'node:net';
import { buildConnector, type Dispatcher, Pool } from 'undici';
import { isForbiddenHost } from '../addresses.ts';
import { OverloadedError, ProviderError } from '../errors.ts';
import { networkError } from './network-error.ts';
import { coalesceReads, type ReadIntervals } from './read-coalescing.ts';
import type { SocketBudget } from './socket-budget.ts';
import { statusError } from './status-error.ts';

export interface UpstreamOptions {
  /** The part of the URL before the API's own paths, for example `https://api.example/v1`. */
  readonly baseUrl: string;
  /** Maximum number of sockets. Must be at least the number of concurrent calls. */
  readonly connections: number;
  /** Bound of the sockets of all providers; without it there is none. */
  readonly sockets?: SocketBudget | undefined;
  /** Bytes of a response body that may be buffered. Above, the socket is not read. */
  readonly highWaterMark: number;
  readonly readIntervals: ReadIntervals;
  readonly connectTimeoutMs: number;
  readonly headersTimeoutMs: number;
  /** True to allow connections to the addresses that `addresses.ts` forbids. */
  readonly allowPrivate?: boolean | undefined;
}

export type Body = Dispatcher.ResponseData['body'];

export interface Upstream {
  /**
   * Posts JSON. Resolves to the response body when the headers of a response with status 200 and the expected
   * content type have arrived. Discards any other response.
   * @param path relative to the base URL, with a leading slash
   * @throws ProviderError for any other response and for a failed connection; the abort error if `signal`
   *   aborts
   */
  post(path: string, headers: Record<string, string>, body: unknown, signal: AbortSignal): Promise<Body>;
  /** Closes all connections. Does not wait for running calls. */
  close(): Promise<void>;
}

/**
 * Types that some servers and gateways send for a stream (vllm-ascend#6985). A missing type is accepted, too. The
 * decoder tells from the bytes what they are.
 */
const OTHER_CONTENT_TYPES = ['application/json', 'application/x-ndjson', 'application/octet-stream', 'text/plain'];

/** Maximum number of bytes that are read of an error response. */
const MAX_ERROR_BODY_BYTES = 64 * 1024;
/** Maximum time for reading an error response. */
const ERROR_BODY_TIMEOUT_MS = 1_000;

/**
 * Creates the keep-alive pool of one provider. Uses a `Pool` and not an `Agent`, because in undici 7 an aborted
 * call makes an `Agent` open an extra connection and close it unused.
 * @param contentType media type of a successful response, in lower case
 * @throws TypeError if the base URL is not a valid URL
 */
export function createUpstream(options: UpstreamOptions, contentType: string): Upstream {
  const base = new URL(options.baseUrl);
  const basePath = base.pathname.replace(/\/+$/, '');
  const connector = buildConnector({
    timeout: options.connectTimeoutMs,
    ...(!options.allowPrivate && { lookup: lookupAllowedHost }),
  });
  let pendingCalls = 0;
  const pool = new Pool(base.origin, {
    connections: options.connections,
    pipelining: 1,
    headersTimeout: options.headersTimeoutMs,
    // The LLM client checks the idle deadline on complete parts, because bytes alone are no progress.
    bodyTimeout: 0,
    keepAliveTimeout: 4_000,
    // After an abort, undici 7 opens a new connection for the aborted call. Without this check, a thousand readers
    // that disconnect would cause a thousand unused connections.
    connect(target, callback) {
      if (pendingCalls === 0) return callback(new Error('no call is waiting for this connection'), null);
      const { sockets } = options;
      if (sockets?.reserve() === false) return callback(new OverloadedError('sockets'), null);
      connector(target, (...[error, socket]) => {
        if (socket) sockets?.attach(socket);
        else sockets?.release();
        if (socket) {
          coalesceReads(socket, options.readIntervals);
          markReuse(socket);
        }
        callback(...([error, socket] as Parameters<typeof callback>));
      });
    },
  });

  return {
    async post(path, headers, body, signal) {
      let response: Dispatcher.ResponseData;
      pendingCalls += 1;
      try {
        response = await pool.request({
          method: 'POST',
          path: basePath + path,
          headers: {
            ...headers,
            'content-type': 'application/json',
            accept: contentType,
            'accept-encoding': 'identity',
          },
          body: JSON.stringify(body),
          signal,
          highWaterMark: options.highWaterMark,
        });
      } catch (error) {
        throw networkError(error, 'before_headers');
      } finally {
        pendingCalls -= 1;
      }
      await checkResponse(response, contentType);
      return response.body;
    },
    close: () => pool.destroy(),
  };
}

/** Bytes that each connection had received when its last request was written. */
const bytesBeforeRequest = new WeakMap<object, number>();
subscribe('undici:client:sendHeaders', (message) => {
  const { socket } = message as { socket: Socket };
  bytesBeforeRequest.set(socket, socket.bytesRead);
});

/** Adds to each error of a connection whether a response had been read before the last request was written. */
function markReuse(socket: Socket): void {
  socket.prependListener('error', (fault) => {
    Object.assign(fault, { isReused: (bytesBeforeRequest.get(socket) ?? 0) > 0 });
  });
}

/**
 * Resolves a host name and rejects forbidden addresses. Runs for each connection, because DNS records may
 * change after the start.
 */
const lookupAllowedHost: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses) => {
    if (error) return callback(error, '');
    const [first] = addresses;
    if (first === undefined || addresses.some(({ address }) => isForbiddenHost(address))) {
      return callback(Object.assign(new Error('forbidden address'), { code: 'ENOTFOUND' }), '');
    }
    if (options.all) callback(null, addresses);
    else callback(null, first.address, first.family);
  });
};

/** @throws ProviderError if the response cannot be read as a stream of this content type */
async function checkResponse(
  { statusCode, headers, body }: Dispatcher.ResponseData,
  contentType: string,
): Promise<void> {
  if (statusCode >= 400) throw statusError(statusCode, headers, await readErrorBody(body));
  const reason = findUnreadableReason(statusCode, headers, contentType);
  if (reason === undefined) return;
  body.on('error', () => {}).destroy();
  throw new ProviderError('upstream_protocol', { reason, retryable: false, upstreamStatus: statusCode });
}

/**
 * Returns the reason why a response without an error status cannot be read as a stream. Redirects are not
 * followed.
 */
function findUnreadableReason(
  status: number,
  headers: Dispatcher.ResponseData['headers'],
  contentType: string,
): string | undefined {
  if (status !== 200) return status >= 300 ? 'redirect' : 'status';
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') return 'content_encoding';
  const type = String(headers['content-type'] ?? contentType).toLowerCase();
  return [contentType, ...OTHER_CONTENT_TYPES].some((accepted) => type.startsWith(accepted))
    ? undefined
    : 'content_type';
}

/** Returns the start of an error body. If reading fails or times out, returns what has arrived. */
async function readErrorBody(body: Body): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  const timeout = setTimeout(() => body.destroy(), ERROR_BODY_TIMEOUT_MS);
  try {
    for await (const chunk of body) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= MAX_ERROR_BODY_BYTES) break;
    }
  } catch {
    // The status alone classifies the error well enough.
  } finally {
    clearTimeout(timeout);
  }
  return Buffer.concat(chunks).toString('utf8', 0, MAX_ERROR_BODY_BYTES);
}
