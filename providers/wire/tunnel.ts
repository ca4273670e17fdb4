import { isIPv6, type Socket } from 'node:net';
import { Pool } from 'undici';
import { ProviderError } from '../errors.ts';

/** A place to connect to, as undici's connector describes it. */
interface Destination {
  readonly hostname: string;
  readonly port: string;
  readonly protocol: string;
}

export interface Tunnels {
  /**
   * Opens a connection to a host through the proxy, which resolves the name.
   * @throws ProviderError with reason `proxy` if the proxy cannot be reached, refuses or does not answer in time; the
   *   system's error if this process has no descriptor left
   */
  open(destination: Destination): Promise<Socket>;
  close(): Promise<void>;
}

/** Errors of this machine, for which the proxy is not to blame. */
const LOCAL_FAULTS: ReadonlySet<unknown> = new Set(['EMFILE', 'ENFILE']);
/** Refusals of a proxy that may be gone at the next try: a timeout, a rate limit, every fault of a server. */
const isTemporary = (status: number) => status === 408 || status === 429 || status >= 500;

/**
 * Opens tunnels through an HTTP proxy, with the method CONNECT. Also for providers without TLS: the proxy then sees
 * bytes and not requests, so that it does not buffer a stream or change its headers.
 * @param proxyUrl URL of the proxy, which may contain a user and a password
 * @param timeoutMs time to connect to the proxy, and then again for its answer
 */
export function createTunnels(proxyUrl: string, timeoutMs: number): Tunnels {
  const { origin, username, password } = new URL(proxyUrl);
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  const authorization = username !== '' && `Basic ${Buffer.from(credentials).toString('base64')}`;
  const pool = new Pool(origin, { connect: { timeout: timeoutMs }, headersTimeout: timeoutMs });

  return {
    async open({ hostname, port, protocol }) {
      const host = isIPv6(hostname) ? `[${hostname}]` : hostname;
      const authority = `${host}:${port || (protocol === 'https:' ? 443 : 80)}`;
      const headers = { host: authority, ...(authorization && { 'proxy-authorization': authorization }) };
      const { statusCode, socket } = await pool.connect({ path: authority, headers }).catch((cause) => {
        throw LOCAL_FAULTS.has(cause.code) ? cause : failure(true, cause);
      });
      if (statusCode >= 200 && statusCode < 300) return socket as Socket;
      socket.on('error', () => {}).destroy();
      throw failure(isTemporary(statusCode), new Error(`the proxy answered ${statusCode}`));
    },
    close: () => pool.destroy(),
  };
}

function failure(retryable: boolean, cause: unknown): ProviderError {
  return new ProviderError('upstream_unreachable', { reason: 'proxy', retryable, cause });
}
