import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A TCP proxy in front of the service that cuts responses at exact bytes, and serves a page on its origin. */

export interface Cut {
  /** Returns the number of bytes that reach the client; a negative number as long as that place has not come. */
  at(response: string): number;
  /** FIN closes the connection in order, RST aborts it. */
  readonly by: 'FIN' | 'RST';
}

export interface CuttingProxyOptions {
  /** HTML of `/frame`. */
  page(url: URL): string;
  /** Returns the cut of a request; undefined if its response passes as it is. Called once for each request. */
  cutOf(url: URL): Cut | undefined;
}

/** Starts a proxy in front of `service` and returns its origin. */
export async function startCuttingProxy(t: Test, service: string, options: CuttingProxyOptions): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    sockets.add(client);
    client.setNoDelay(true).on('error', () => {});
    client.on('close', () => sockets.delete(client));
    let head = '';
    const onData = (bytes: Buffer) => {
      head += bytes.toString('latin1');
      if (!head.includes('\r\n\r\n')) return;
      client.off('data', onData);
      answer(client, head, service, options);
    };
    client.on('data', onData);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function answer(client: Socket, head: string, service: string, { page, cutOf }: CuttingProxyOptions): void {
  const [, path = '/'] = head.split(' ');
  const url = new URL(path, service);
  if (url.pathname === '/frame') return void client.end(htmlResponse(page(url)));
  if (url.pathname === '/favicon.ico') return void client.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n');
  const cut = cutOf(url);
  const upstream = connect(Number(url.port), url.hostname);
  upstream.on('error', () => client.destroy()).on('close', () => client.end());
  client.on('close', () => upstream.destroy());
  upstream.write(head.replace(/connection: keep-alive/i, 'Connection: close'), 'latin1');
  let response = '';
  upstream.on('data', (bytes) => {
    const before = response.length;
    if (cut) response += bytes.toString('latin1');
    const end = cut ? cut.at(response) : -1;
    if (cut === undefined || end < 0) return void client.write(bytes);
    upstream.removeAllListeners('data');
    client.write(bytes.subarray(0, Math.max(0, end - before)), () => {
      if (cut.by === 'RST') client.resetAndDestroy();
      else client.end();
      upstream.destroy();
    });
  });
}

/** Returns a response that ends its connection. */
export function htmlResponse(html: string): string {
  return `HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(html)}\r\n\r\n${html}`;
}
