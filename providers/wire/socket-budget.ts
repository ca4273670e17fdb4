import { subscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';

/** Bounds the sockets to all providers, so that they leave file descriptors for clients. */
export interface SocketBudget {
  /** Reserves a socket, if need be by closing the connection that has been idle for longest. */
  reserve(): boolean;
  /** Releases a socket that could not be opened. */
  release(): void;
  /** Counts a reserved socket as open until it closes. */
  attach(socket: Socket): void;
}

/** Open sockets of all budgets; undici reports by socket when a connection is busy. */
const members = new WeakMap<Socket, { onBusy(): void; onIdle(): void }>();
const socketOf = new WeakMap<object, Socket>();

subscribe('undici:client:sendHeaders', (message) => {
  const { request, socket } = message as { request: object; socket: Socket };
  socketOf.set(request, socket);
  members.get(socket)?.onBusy();
});
subscribe('undici:request:trailers', (message) => {
  const socket = socketOf.get((message as { request: object }).request);
  if (socket !== undefined) members.get(socket)?.onIdle();
});

export function createSocketBudget(max: number): SocketBudget {
  let count = 0;
  /** Idle connections, those that are idle for longest first, each with the function that stops counting it. */
  const idle = new Map<Socket, () => void>();

  return {
    reserve() {
      if (count >= max) {
        const [oldest] = idle;
        if (oldest === undefined) return false;
        const [socket, detach] = oldest;
        detach();
        socket.destroy();
      }
      count += 1;
      return true;
    },
    release() {
      count -= 1;
    },
    attach(socket) {
      let isCounted = true;
      const detach = () => {
        if (!isCounted) return;
        isCounted = false;
        idle.delete(socket);
        members.delete(socket);
        count -= 1;
      };
      members.set(socket, { onBusy: () => void idle.delete(socket), onIdle: () => void idle.set(socket, detach) });
      socket.once('close', detach);
    },
  };
}
