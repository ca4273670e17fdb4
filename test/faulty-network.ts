import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

/** A TCP proxy in front of Redis that does what networks do to one replica. */

/** The connections of a replica: one for commands, and one that is subscribed to messages. */
export type ConnectionKind = 'commands' | 'messages';

export interface FaultyNetwork {
  readonly port: number;
  /** Number of open connections of a kind. */
  connections(kind: ConnectionKind): number;
  /** Closes every connection. */
  cut(): void;
  /** Keeps the bytes of all connections of these kinds, until `heal` delivers them. */
  hold(...kinds: ConnectionKind[]): void;
  /** Lets the bytes of the present connections vanish for good, without closing them. New connections work. */
  swallow(...kinds: ConnectionKind[]): void;
  /** Delays all bytes, in each direction. */
  delay(ms: number): void;
  /** Ends every fault but those of connections whose bytes vanish. */
  heal(): void;
}

/** One connection through the proxy. */
class Connection {
  kind: ConnectionKind = 'commands';
  isSwallowed = false;
  readonly sockets: readonly [Socket, Socket];
  readonly #kept: { to: Socket; bytes: Buffer }[] = [];

  constructor(client: Socket, server: Socket) {
    this.sockets = [client, server];
  }

  forward(to: Socket, bytes: Buffer, isHeld: boolean): void {
    if (this.isSwallowed) return;
    if (isHeld) this.#kept.push({ to, bytes });
    else if (!to.destroyed) to.write(bytes);
  }

  deliver(): void {
    for (const { to, bytes } of this.#kept.splice(0)) if (!this.isSwallowed && !to.destroyed) to.write(bytes);
  }

  close(): void {
    for (const socket of this.sockets) socket.destroy();
  }
}

/** Starts a proxy in front of a port of this machine. */
export async function faultyNetwork(t: Test, port: number): Promise<FaultyNetwork> {
  const open = new Set<Connection>();
  const held = new Set<ConnectionKind>();
  let delayMs = 0;

  const listener = createServer((client) => {
    const server = connect(port, '127.0.0.1');
    const connection = new Connection(client, server);
    open.add(connection);
    // Bytes keep their order also when the delay changes.
    const pipe = (from: Socket, to: Socket) => {
      let last = Promise.resolve();
      from.on('data', (bytes: Buffer) => {
        if (from === client && /\r\nsubscribe\r\n/i.test(bytes.toString('latin1'))) connection.kind = 'messages';
        const ms = delayMs;
        last = last.then(async () => {
          if (ms > 0) await sleep(ms);
          connection.forward(to, bytes, held.has(connection.kind));
        });
      });
      from.on('error', () => {});
      from.on('close', () => {
        // Who is behind a network that swallows bytes does not learn that the other end has closed.
        if (!connection.isSwallowed || from === client) {
          open.delete(connection);
          connection.close();
        }
      });
    };
    pipe(client, server);
    pipe(server, client);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.teardown(() => {
    for (const connection of open) connection.close();
    listener.close();
  });
  return {
    port: (listener.address() as AddressInfo).port,
    connections: (kind) => [...open].filter((connection) => connection.kind === kind).length,
    cut() {
      for (const connection of open) if (!connection.isSwallowed) connection.close();
    },
    hold(...kinds) {
      for (const kind of kinds) held.add(kind);
    },
    swallow(...kinds) {
      for (const connection of open) if (kinds.includes(connection.kind)) connection.isSwallowed = true;
    },
    delay(ms) {
      delayMs = ms;
    },
    heal() {
      delayMs = 0;
      held.clear();
      for (const connection of open) connection.deliver();
    },
  };
}
