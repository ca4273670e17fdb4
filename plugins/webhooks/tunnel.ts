import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { connect } from 'node:tls';

/** The proxy cannot be reached, or refuses the tunnel. The message may have parts of its URL and is not logged. */
export class ProxyFailed extends Error {
  readonly code = 'proxy';
}

/**
 * Opens a connection to the host of a URL through an HTTP proxy, which resolves the name. Uses CONNECT also without TLS, so
 * that the proxy sees bytes and no request.
 * @param proxyUrl may contain a user and a password
 * @throws ProxyFailed, or an AbortError
 */
export function openTunnel(proxyUrl: string, url: string, signal: AbortSignal): Promise<Socket> {
  const { hostname, port, protocol } = new URL(url);
  const isSecure = protocol === 'https:';
  const authority = `${hostname}:${port || (isSecure ? 443 : 80)}`;
  const { username, password } = new URL(proxyUrl);
  const credentials = Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`).toString('base64');
  const headers = { host: authority, ...(username && { 'proxy-authorization': `Basic ${credentials}` }) };
  const request = proxyUrl.startsWith('https:') ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const outgoing = request(proxyUrl, { method: 'CONNECT', path: authority, headers, agent: false, signal });
    outgoing.on('connect', ({ statusCode = 0 }, socket: Socket) => {
      if (statusCode >= 200 && statusCode < 300) {
        const host = hostname.replace(/^\[|\]$/g, '');
        return resolve(isSecure ? connect({ socket, ...(isIP(host) === 0 && { servername: host }), host }) : socket);
      }
      socket.on('error', () => {}).destroy();
      reject(new ProxyFailed(`the proxy answered ${statusCode}`));
    });
    // An answer that opens no tunnel has no `connect` event.
    outgoing.on('response', (response) => {
      response.destroy();
      reject(new ProxyFailed(`the proxy answered ${response.statusCode}`));
    });
    outgoing.on('error', (cause) => {
      reject(signal.aborted ? cause : new ProxyFailed('the proxy cannot be reached', { cause }));
    });
    outgoing.end();
  });
}
