import { once } from 'node:events';
import { createServer, request as forward, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Test } from 'tap';
import { readModule } from './browser-modules.ts';

/** A web site: its own pages and scripts, and the service behind the same origin, as with a gateway. */
export interface Site {
  readonly url: string;
  /** Method and URL of every request that the service got, in order. */
  readonly requests: string[];
  /** Cuts every open connection to the site. */
  cut(): void;
}

/** Text of a page or script by its path, or a function that answers. */
export type Files = Record<string, string | ((request: IncomingMessage, response: ServerResponse) => void)>;

/** Starts a site in front of the service at `service`. Under `/node_modules/` it has the packages of the project. */
export async function startSite(t: Test, service: string, files: Files): Promise<Site> {
  const sockets = new Set<Socket>();
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const { method, url = '/', headers } = request;
    const [path = '/'] = url.split('?');
    const file = files[path];
    if (typeof file === 'function') return file(request, response);
    const text = file ?? readModule(path);
    if (text !== undefined) {
      const isPage = file !== undefined && !path.endsWith('.js');
      response.setHeader('content-type', isPage ? 'text/html; charset=utf-8' : 'text/javascript');
      if (file === undefined) response.setHeader('cache-control', 'max-age=3600');
      return response.end(text);
    }
    requests.push(`${method} ${url}`);
    const outgoing = forward(`${service}${url}`, { method, headers, agent: false }, (incoming) => {
      response.writeHead(incoming.statusCode ?? 502, incoming.headers);
      response.flushHeaders();
      incoming.on('error', () => response.destroy()).pipe(response);
    });
    outgoing.on('error', () => response.destroy());
    response.on('close', () => outgoing.destroy());
    request.pipe(outgoing);
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = () => {
    for (const socket of sockets) socket.destroy();
  };
  t.teardown(() => {
    cut();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests, cut };
}
