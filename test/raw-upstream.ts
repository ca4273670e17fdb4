import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** An upstream on plain sockets, for faults that an HTTP server cannot produce. */

export interface RawUpstream {
  readonly url: string;
  /** Requests that were received completely. */
  readonly requests: string[];
  /** Open connections. */
  readonly open: Set<Socket>;
}

/** Handles the n-th request, counted from 1. */
export type RawScript = (socket: Socket, n: number) => unknown;

export async function rawUpstream(t: Test, script: RawScript): Promise<RawUpstream> {
  const requests: string[] = [];
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.setNoDelay(true).on('error', () => {});
    socket.on('close', () => open.delete(socket));
    let received = '';
    socket.on('data', (bytes) => {
      received += bytes.toString('latin1');
      const end = received.indexOf('\r\n\r\n');
      if (end < 0) return;
      const length = Number(/content-length: (\d+)/i.exec(received)?.[1] ?? 0);
      if (received.length < end + 4 + length) return;
      requests.push(received.slice(0, end + 4 + length));
      received = received.slice(end + 4 + length);
      script(socket, requests.length);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests, open };
}

/** Returns the head of a response. Without a length, the body ends with the connection. */
export function head(status = 200, headers: Record<string, string> = {}): string {
  const all = { 'content-type': 'text/event-stream', ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} X\r\n${lines.join('')}\r\n`;
}

/** Returns one chunk of a chunked body. */
export function chunked(data: string | Buffer): Buffer {
  const bytes = Buffer.from(data);
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);
}

export const CHUNKED = head(200, { 'transfer-encoding': 'chunked' });
export const LAST_CHUNK = '0\r\n\r\n';
