import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A TCP proxy that cuts responses of events after a number of bytes. */
export interface CuttingProxy {
  readonly url: string;
  /** Number of connections that were cut after a number of bytes. */
  cuts(): number;
  /** Cuts every open connection. */
  cut(): void;
}

export interface CutOptions {
  /** Bytes of a response, its head included, that get through; all of them by default. */
  readonly after?: number;
  /** True to cut behind the last event, before the end of the response. */
  readonly atEnd?: boolean;
  /** Number of responses that are cut. */
  readonly times?: number;
  /** True to cut by RST, false by FIN. */
  readonly reset?: boolean;
}

/** Last bytes of a chunked response. */
const LAST_CHUNK = '0\r\n\r\n';

/** Starts a proxy in front of `target`. Responses that are no events, such as those to preflights, are not cut. */
export async function cuttingProxy(
  t: Test,
  target: string,
  { after = Number.POSITIVE_INFINITY, atEnd = false, times = 1, reset = false }: CutOptions = {},
): Promise<CuttingProxy> {
  const open = new Set<Socket>();
  let cuts = 0;
  const { hostname, port } = new URL(target);
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    let passed = 0;
    let isEvents = false;
    let isCut = false;
    for (const socket of [client, upstream]) {
      open.add(socket);
      socket.on('error', () => {}).on('close', () => open.delete(socket));
    }
    client.on('close', () => upstream.destroy());
    // A cut connection still has bytes for the client.
    upstream.on('close', () => isCut || client.destroy());
    client.on('data', (bytes) => {
      passed = 0;
      isEvents = false;
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      isEvents ||= bytes.includes('text/event-stream');
      const isEnd = atEnd && isEvents && bytes.toString('latin1').endsWith(LAST_CHUNK);
      const rest = isEnd ? bytes.length - LAST_CHUNK.length : after - passed;
      passed += bytes.length;
      if (!isEvents || cuts >= times || (passed <= after && !isEnd)) {
        client.write(bytes);
        return;
      }
      cuts += 1;
      isCut = true;
      upstream.destroy();
      client.write(bytes.subarray(0, rest), () => (reset ? client.resetAndDestroy() : client.end()));
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = () => {
    for (const socket of open) socket.destroy();
  };
  t.teardown(() => {
    cut();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, cuts: () => cuts, cut };
}
