import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A TCP proxy that cuts a response after a number of its bytes, as the header `x-cut` of the request says. */

export interface CuttingProxy {
  readonly url: string;
  /** Method and path of every request that went through, in order. */
  readonly requests: string[];
  /** Open connections of clients. */
  open(): number;
  /** Most connections of clients that were open at the same time. */
  readonly mostOpen: () => number;
}

/** Value of `x-cut`: bytes of the response, head included, and the TCP flag that ends the connection. */
export interface Cut {
  readonly after: number;
  readonly by: 'FIN' | 'RST';
}

export async function startCuttingProxy(t: Test, target: string): Promise<CuttingProxy> {
  const clients = new Set<Socket>();
  const requests: string[] = [];
  let most = 0;
  const { hostname, port } = new URL(target);
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    let cut: { left: number; by: string } | undefined;
    clients.add(client);
    most = Math.max(most, clients.size);
    for (const socket of [client, upstream]) {
      socket
        .on('error', () => {})
        .on('close', () => {
          clients.delete(client);
          client.destroy();
          upstream.destroy();
        });
    }
    client.on('data', (bytes) => {
      const text = bytes.toString('latin1');
      for (const [line] of text.matchAll(/^(GET|POST|DELETE) \S+/gm)) requests.push(line);
      const [, after, by = ''] = /^x-cut: (\d+) (FIN|RST)/im.exec(text) ?? [];
      if (/^(GET|POST|DELETE) /m.test(text)) cut = after ? { left: Number(after), by } : undefined;
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      if (cut === undefined || bytes.length < cut.left) {
        if (cut) cut.left -= bytes.length;
        client.write(bytes);
        return;
      }
      const { left, by } = cut;
      cut.left = 0;
      upstream.removeAllListeners('data').resume();
      if (by === 'FIN') client.end(bytes.subarray(0, left));
      else client.write(bytes.subarray(0, left), () => client.resetAndDestroy());
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const client of clients) client.destroy();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    open: () => clients.size,
    mostOpen: () => most,
  };
}
