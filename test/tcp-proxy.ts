import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A TCP proxy that cuts connections: of every client, as a phone does that changes its network, or at exact bytes. */

export interface TcpProxy {
  readonly url: string;
  /** Method and path of every GET, POST and DELETE that went through, in order. */
  readonly requests: string[];
  /** Number of responses that were cut at a byte. */
  readonly cuts: number;
  /** Service behind the proxy; a change concerns new connections. */
  target: string;
  /** Cuts every open connection. */
  cut(): void;
}

export interface Cut {
  /**
   * Number of bytes of a response, its head included, that reach the client; or a function that returns it, given the
   * bytes so far as Latin-1, and a negative number as long as that place has not come.
   */
  readonly at: number | ((response: string) => number);
  /** FIN closes the connection in order, which is the default; RST aborts it. */
  readonly by?: 'FIN' | 'RST';
}

export interface ProxiedRequest {
  readonly method: string;
  readonly url: URL;
  /** The request, as far as its first packet has it. */
  readonly head: string;
}

export interface TcpProxyOptions {
  /** Returns the cut of a response; undefined if it passes as it is. Called once for each GET, POST and DELETE. */
  cutOf?(request: ProxiedRequest, proxy: TcpProxy): Cut | undefined;
  /** Returns the HTML of a page of the proxy's own; undefined for what the service answers. */
  pageOf?(url: URL): string | undefined;
}

const REQUEST = /^(GET|POST|DELETE|OPTIONS|HEAD) (\S+) HTTP\/1\.1\r\n/gm;
const LISTED = ['GET', 'POST', 'DELETE'];

/** Returns a place behind a number of bytes of the body. */
export const inBody =
  (count: number) =>
  (response: string): number => {
    const head = response.indexOf('\r\n\r\n') + 4;
    return head < 4 || response.length < head + count ? -1 : head + count;
  };

/** Starts a proxy in front of `target`. */
export async function tcpProxy(t: Test, target: string, { cutOf, pageOf }: TcpProxyOptions = {}): Promise<TcpProxy> {
  const open = new Set<Socket>();
  const requests: string[] = [];
  let cuts = 0;
  const server = createServer((client) => {
    const { hostname, port } = new URL(proxy.target);
    const upstream = connect(Number(port), hostname);
    let cut: Cut | undefined;
    let response = '';
    let passed = 0;
    let isOver = false;
    for (const socket of [client, upstream]) {
      open.add(socket);
      socket.setNoDelay(true).on('close', () => open.delete(socket));
    }
    client.on('error', () => {}).on('close', () => upstream.destroy());
    // A client that was cut off may still have bytes to receive.
    upstream.on('error', () => isOver || client.destroy()).on('close', () => isOver || client.end());
    client.on('data', (bytes) => {
      const head = bytes.toString('latin1');
      for (const [, method = '', path = ''] of head.matchAll(REQUEST)) {
        const url = new URL(path, proxy.target);
        const page = pageOf?.(url);
        if (page !== undefined) {
          isOver = true;
          client.end(htmlResponse(page));
          upstream.destroy();
          return;
        }
        const isListed = LISTED.includes(method);
        if (isListed) requests.push(`${method} ${path}`);
        cut = isListed ? cutOf?.({ method, url, head }, proxy) : undefined;
        response = '';
        passed = 0;
      }
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      if (isOver) return;
      const end = cut === undefined ? -1 : positionOf(cut, bytes);
      if (end < 0) {
        passed += bytes.length;
        client.write(bytes);
        return;
      }
      isOver = true;
      cuts += 1;
      const isReset = cut?.by === 'RST';
      client.write(bytes.subarray(0, Math.max(0, end - passed)), () => {
        if (isReset) client.resetAndDestroy();
        else client.end();
      });
      upstream.destroy();
    });
    /** Returns the place of the cut; a negative number if it is behind these bytes. */
    function positionOf({ at }: Cut, bytes: Buffer): number {
      if (typeof at === 'number') return passed + bytes.length < at ? -1 : at;
      response += bytes.toString('latin1');
      return at(response);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const proxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    target,
    get cuts() {
      return cuts;
    },
    cut() {
      for (const socket of open) socket.destroy();
    },
  };
  t.teardown(() => {
    proxy.cut();
    server.close();
  });
  return proxy;
}

/** Returns a response that ends its connection. */
function htmlResponse(html: string): string {
  return `HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\nContent-Length: ${Buffer.byteLength(html)}\r\n\r\n${html}`;
}
