import { lookup } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { buildConnector, type Dispatcher, Pool } from 'undici';
import { isForbiddenHost } from '../addresses.ts';
import { ProviderError } from '../errors.ts';
import { networkError } from './network-error.ts';
import { coalesceReads, type ReadIntervals } from './read-coalescing.ts';
import { statusError } from './status-error.ts';

export interface UpstreamOptions {
  /** Everything before the API's own path, such as `https://api.example/v1`. */
  readonly baseUrl: string;
  /** Most sockets at once; must not be below the number of answers that may run. */
  readonly connections: number;
  /** Bytes that may wait in the response body before the socket is no longer read. */
  readonly highWaterMark: number;
  readonly readIntervals: ReadIntervals;
  readonly connectTimeoutMs: number;
  readonly headersTimeoutMs: number;
  /** Whether it may live at a link-local address. */
  readonly allowPrivate?: boolean | undefined;
}

export type Body = Dispatcher.ResponseData['body'];

export interface Upstream {
  /**
   * Posts JSON and resolves once a 200 with the wanted content type has begun. Anything else is
   * read, forgotten and thrown as a `ProviderError`.
   */
  post(path: string, headers: Record<string, string>, body: unknown, signal: AbortSignal): Promise<Body>;
  close(): Promise<void>;
}

/** How much of an error's body is read for its class, and for how long. */
const MAX_ERROR_BODY = 64 * 1024;
const ERROR_BODY_MS = 1_000;

/**
 * One keep-alive pool per provider. A `Pool` and not an `Agent`, because with undici 7 an aborted
 * call makes an `Agent` open a spare connection and throw it away.
 */
export function createUpstream(options: UpstreamOptions, contentType: string): Upstream {
  const base = new URL(options.baseUrl);
  const prefix = base.pathname.replace(/\/+$/, '');
  const connector = buildConnector({
    timeout: options.connectTimeoutMs,
    ...(!options.allowPrivate && { lookup: lookupAllowedHost }),
  });
  let pendingCalls = 0;
  const pool = new Pool(base.origin, {
    connections: options.connections,
    pipelining: 1,
    headersTimeout: options.headersTimeoutMs,
    // Idle time is watched by the LLM client, on complete parts: bytes alone are no progress.
    bodyTimeout: 0,
    keepAliveTimeout: 4_000,
    // After an abort undici 7 connects anew for the call that was aborted: a thousand readers that
    // leave would be a thousand connections for nobody.
    connect(target, callback) {
      if (pendingCalls === 0) return callback(new Error('nobody waits for this connection'), null);
      connector(target, (...[error, socket]) => {
        if (socket) coalesceReads(socket, options.readIntervals);
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
          path: prefix + path,
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

/** A name may come to mean another address between the start and a connection. */
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

async function checkResponse(
  { statusCode, headers, body }: Dispatcher.ResponseData,
  contentType: string,
): Promise<void> {
  if (statusCode >= 400) throw statusError(statusCode, headers, await readText(body));
  const reason = findUnreadableReason(statusCode, headers, contentType);
  if (reason === undefined) return;
  body.on('error', () => {}).destroy();
  throw new ProviderError('upstream_protocol', { reason, retryable: false, upstreamStatus: statusCode });
}

/** Why a response that is no error cannot be read as a stream. Redirects are never followed. */
function findUnreadableReason(
  status: number,
  headers: Dispatcher.ResponseData['headers'],
  contentType: string,
): string | undefined {
  if (status !== 200) return status >= 300 ? 'redirect' : 'status';
  const encoding = headers['content-encoding'];
  if (encoding !== undefined && encoding !== 'identity') return 'content_encoding';
  const type = headers['content-type'];
  // An absent type is let through: self-hosted servers forget it, and the parser refuses nonsense.
  if (type !== undefined && !String(type).toLowerCase().startsWith(contentType)) return 'content_type';
  return undefined;
}

/** The beginning of an error's body; a body that breaks off gives what came. */
async function readText(body: Body): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  const late = setTimeout(() => body.destroy(), ERROR_BODY_MS);
  try {
    for await (const chunk of body) {
      chunks.push(chunk);
      size += chunk.length;
      if (size >= MAX_ERROR_BODY) break;
    }
  } catch {
    // The status already says what matters.
  } finally {
    clearTimeout(late);
  }
  return Buffer.concat(chunks).toString('utf8', 0, MAX_ERROR_BODY);
}
