import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import type { Test } from 'tap';

/** An HTTP proxy that opens tunnels by CONNECT, and refuses every other request. */

export interface ConnectProxy {
  readonly port: number;
  readonly url: string;
  /** Destination of each tunnel, in order. */
  readonly destinations: string[];
  /** Credentials that the client sent with each tunnel; undefined if none. */
  readonly credentials: (string | undefined)[];
  /** Returns the number of open connections, on both sides of the proxy. */
  connections(): number;
  /** Cuts every tunnel. */
  cut(): void;
  /** Called instead of opening a tunnel, if set. */
  refuse: ((client: Socket) => void) | undefined;
}

/** Starts a proxy that connects every name to 127.0.0.1. */
export async function connectProxy(t: Test): Promise<ConnectProxy> {
  const open = new Set<Socket>();
  const server = createServer((_, response) => response.writeHead(501).end());
  server.on('connect', ({ url = '', headers }, client: Socket) => {
    proxy.destinations.push(url);
    const encoded = headers['proxy-authorization']?.replace('Basic ', '');
    proxy.credentials.push(encoded && Buffer.from(encoded, 'base64').toString());
    if (proxy.refuse) return proxy.refuse(client.resume().on('end', () => client.destroy()));
    const upstream = connect(Number(url.split(':').at(-1)), '127.0.0.1');
    for (const socket of [client, upstream]) {
      open.add(socket);
      socket
        .setNoDelay(true)
        .on('error', () => {})
        .on('close', () => {
          client.destroy();
          upstream.destroy();
          open.delete(socket);
        });
    }
    upstream.once('connect', () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      client.pipe(upstream);
      upstream.pipe(client);
    });
  });
  server.on('connection', (socket) => {
    open.add(socket.on('error', () => {}));
    socket.on('close', () => open.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const cut = () => {
    for (const socket of open) socket.destroy();
  };
  t.teardown(() => {
    cut();
    server.close();
  });
  const proxy: ConnectProxy = {
    port,
    url: `http://127.0.0.1:${port}`,
    destinations: [],
    credentials: [],
    connections: () => open.size,
    cut,
    refuse: undefined,
  };
  return proxy;
}
