import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A server that speaks the protocol of Redis, and whose replies the test decides. */
export interface RespServer {
  readonly port: number;
  /** Commands until now, in lower case except for their arguments, by connection. */
  readonly connections: string[][];
  /** All commands until now. */
  readonly commands: string[];
  readonly sockets: Set<Socket>;
}

/** Returns the bytes of a reply; undefined sends none. */
export type Reply = (command: string, socket: Socket) => string | undefined;

export const OK = '+OK\r\n';

/** Returns a reply of several strings and numbers, also nested. */
export function array(values: readonly unknown[]): string {
  return `*${values.length}\r\n${values.map((value) => (Array.isArray(value) ? array(value) : scalar(value))).join('')}`;
}

/** Returns a message that is no reply. */
export function push(values: readonly unknown[]): string {
  return array(values).replace('*', '>');
}

function scalar(value: unknown): string {
  return typeof value === 'number' ? `:${value}\r\n` : `$${String(value).length}\r\n${value}\r\n`;
}

export async function startRespServer(t: Test, reply: Reply): Promise<RespServer> {
  const connections: string[][] = [];
  const commands: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const own: string[] = [];
    connections.push(own);
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    let received = '';
    socket.on('data', (bytes) => {
      received += bytes.toString('latin1');
      for (let end = endOfCommand(received); end > 0; end = endOfCommand(received)) {
        const [name = '', ...args] = received
          .slice(0, end)
          .split('\r\n')
          .filter((_, i) => i > 0 && i % 2 === 0);
        received = received.slice(end);
        const command = [name.toLowerCase(), ...args].join(' ');
        own.push(command);
        commands.push(command);
        const bytes = reply(command, socket);
        if (bytes !== undefined) socket.write(bytes);
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, connections, commands, sockets };
}

/** Returns the length of the first command; 0 if it has not arrived whole. Arguments have no line breaks. */
function endOfCommand(received: string): number {
  const count = Number(/^\*(\d+)\r\n/.exec(received)?.[1] ?? 0);
  let end = 0;
  for (let lines = 0; lines < 1 + 2 * count; lines++) {
    end = received.indexOf('\r\n', end) + 2;
    if (end < 2) return 0;
  }
  return count > 0 ? end : 0;
}
