import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A TCP proxy that cuts connections, as a phone does that changes its network. */

export interface TcpProxy {
  readonly url: string;
  /** Method and path of every request that went through, in order. */
  readonly requests: string[];
  /** Cuts every open connection. */
  cut(): void;
  /** If true, a connection is cut at the first byte of the response, which the client does not receive. */
  cutBeforeResponse: boolean;
}

/** Starts a proxy in front of `target`. */
export async function tcpProxy(t: Test, target: string): Promise<TcpProxy> {
  const open = new Set<Socket>();
  const requests: string[] = [];
  const { hostname, port } = new URL(target);
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    for (const socket of [client, upstream]) {
      open.add(socket);
      socket
        .on('error', () => {})
        .on('close', () => {
          open.delete(socket);
          client.destroy();
          upstream.destroy();
        });
    }
    client.on('data', (bytes) => {
      for (const [line] of bytes.toString('latin1').matchAll(/^(GET|POST|DELETE) \S+/gm)) requests.push(line);
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      if (proxy.cutBeforeResponse) client.destroy();
      else client.write(bytes);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const proxy: TcpProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    cutBeforeResponse: false,
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
