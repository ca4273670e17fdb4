import type { Readable } from 'node:stream';
import type { Dispatcher } from 'undici';
import { ProviderError } from '../errors.ts';
import { type ConnectionOptions, createConnections } from './connections.ts';
import { networkError } from './network-error.ts';
import { statusError } from './status-error.ts';

export interface UpstreamOptions extends ConnectionOptions {
  /** The part of the URL before the API's own paths, for example `https://api.example/v1`. */
  readonly baseUrl: string;
  /** Bytes of a response body that may be buffered. Above, the socket is not read. */
  readonly highWaterMark: number;
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
 * Creates the client of one provider.
 * @param contentType media type of a successful response, in lower case
 * @throws TypeError if the base URL is not a valid URL
 */
export function createUpstream(options: UpstreamOptions, contentType: string): Upstream {
  const base = new URL(options.baseUrl);
  const basePath = base.pathname.replace(/\/+$/, '');
  const connections = createConnections(base.origin, options);

  return {
    async post(path, headers, body, signal) {
      let response: Dispatcher.ResponseData;
      const json = JSON.stringify(body);
      try {
        response = await connections.request({
          method: 'POST',
          path: basePath + path,
          headers: {
            ...headers,
            'content-type': 'application/json',
            accept: contentType,
            'accept-encoding': 'identity',
            'content-length': String(Buffer.byteLength(json)),
          },
          body: readOnce(json) as unknown as Readable,
          signal,
          highWaterMark: options.highWaterMark,
        });
      } catch (error) {
        throw networkError(error, 'before_headers');
      }
      await checkResponse(response, contentType);
      return response.body;
    },
    close: connections.close,
  };
}

/**
 * Returns an iterable that yields a text once, and does not hold it afterwards. undici keeps the body of a request until
 * its response has ended: a text, or a generator with its variables, would stay in memory for the whole answer.
 */
function readOnce(text: string): Iterable<string> {
  let rest: string | undefined = text;
  const next = (): IteratorResult<string> => {
    const value = rest;
    rest = undefined;
    return value === undefined ? { done: true, value } : { done: false, value };
  };
  return { [Symbol.iterator]: () => ({ next }) };
}

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
