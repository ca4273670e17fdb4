import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A TCP proxy that cuts: what a phone that changes its network looks like from both sides. */

export interface TcpProxy {
  readonly url: string;
  /** The first line of every request that went through, in order. */
  readonly requests: string[];
  /** Cuts every connection that is open now. */
  cut(): void;
  /** Whether a connection is cut at the first byte of its answer, before the client has it. */
  swallowAnswers: boolean;
}

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
      if (proxy.swallowAnswers) client.destroy();
      else client.write(bytes);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const proxy: TcpProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    swallowAnswers: false,
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
