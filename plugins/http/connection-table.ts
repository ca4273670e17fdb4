import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

export interface ConnectionTableOptions {
  /** Most connections. */
  readonly maxConnections: number;
  /** Most admitted requests. */
  readonly maxRequests: number;
  /** Called for each connection that is closed for want of room, with its state: `idle`, `receiving` or `new`. */
  onClosed(state: 'idle' | 'receiving' | 'new'): void;
  /** Called with the number of connections when it changes. */
  onCount(count: number): void;
}

/** Requests of one connection that are not answered yet. */
interface Unanswered {
  /** All of them. */
  count: number;
  /** Those whose body has arrived. */
  complete: number;
  /** Called when the connection closes. */
  readonly onClose: Set<() => void>;
}

/**
 * Bounds the connections of an HTTP server, and the requests that it answers at the same time. For a new connection,
 * the oldest one without a request is closed, then the oldest whose request is incomplete. A connection whose request
 * is being answered is never closed for another one.
 */
export class ConnectionTable {
  readonly #options: ConnectionTableOptions;
  readonly #unanswered = new Map<Socket, Unanswered>();
  /** Connections without a complete head of a request, those that are idle for longest first. */
  readonly #idle = new Set<Socket>();
  /** Connections whose request lacks a part of its body, the oldest first. */
  readonly #receiving = new Set<Socket>();
  #admitted = 0;

  constructor(options: ConnectionTableOptions) {
    this.#options = options;
  }

  /** Number of open connections. */
  get size(): number {
    return this.#unanswered.size;
  }

  /** Adds a new connection. Closes it immediately if every other one is being answered. */
  open(socket: Socket): void {
    const isFull = this.size >= this.#options.maxConnections;
    if (isFull && !this.#closeOldest('idle') && !this.#closeOldest('receiving')) {
      this.#options.onClosed('new');
      socket.destroy();
      return;
    }
    this.#unanswered.set(socket, { count: 0, complete: 0, onClose: new Set() });
    this.#idle.add(socket);
    this.#options.onCount(this.size);
    socket.once('close', () => this.#forget(socket));
  }

  /** Counts a request whose headers have arrived, until its response closes. */
  begin(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    const requests = this.#unanswered.get(socket);
    if (requests === undefined) return;
    let isComplete = false;
    const complete = () => {
      isComplete = true;
      requests.complete += 1;
    };
    requests.count += 1;
    if (hasBody(request)) {
      request.once('end', () => {
        if (isComplete) return;
        complete();
        this.#sort(socket, requests);
      });
    } else complete();
    this.#sort(socket, requests);
    response.once('close', () => {
      requests.count -= 1;
      if (isComplete) requests.complete -= 1;
      // A body that arrives after its response is of no interest.
      isComplete = true;
      this.#sort(socket, requests);
    });
  }

  /** Returns true if the server has room for another request, and counts it until its response closes. */
  admit(request: IncomingMessage, response: ServerResponse): boolean {
    // A body that arrives slowly must not keep out a request that can be answered.
    if (this.#admitted >= this.#options.maxRequests && !this.#closeOldest('receiving', request.socket)) return false;
    this.#admitted += 1;
    this.onceClosed(request, response, () => {
      this.#admitted -= 1;
    });
    return true;
  }

  /**
   * Calls `fn` once when a response or its connection has closed. A pipelined response gets its connection only when
   * the response before it has ended; until then it does not close with it.
   */
  onceClosed({ socket }: IncomingMessage, response: ServerResponse, fn: () => void): void {
    // The connection was closed while a hook of the request waited.
    if (socket.destroyed) {
      fn();
      return;
    }
    const listeners = this.#unanswered.get(socket)?.onClose;
    const onClose = () => {
      listeners?.delete(onClose);
      response.off('close', onClose);
      fn();
    };
    listeners?.add(onClose);
    response.once('close', onClose);
  }

  /** Returns true if a request of this connection is not answered yet. */
  isAnswering(socket: Socket): boolean {
    return (this.#unanswered.get(socket)?.count ?? 0) > 0;
  }

  #sort(socket: Socket, { count, complete }: Unanswered): void {
    this.#idle.delete(socket);
    this.#receiving.delete(socket);
    if (complete > 0 || !this.#unanswered.has(socket)) return;
    if (count > 0) this.#receiving.add(socket);
    else this.#idle.add(socket);
  }

  #closeOldest(state: 'idle' | 'receiving', except?: Socket): boolean {
    for (const socket of state === 'idle' ? this.#idle : this.#receiving) {
      if (socket === except) continue;
      this.#options.onClosed(state);
      this.#forget(socket);
      socket.destroy(); // Closes the descriptor immediately.
      return true;
    }
    return false;
  }

  #forget(socket: Socket): void {
    this.#idle.delete(socket);
    this.#receiving.delete(socket);
    const requests = this.#unanswered.get(socket);
    if (requests === undefined) return;
    this.#unanswered.delete(socket);
    for (const onClose of requests.onClose) onClose();
    this.#options.onCount(this.size);
  }
}

function hasBody({ headers }: IncomingMessage): boolean {
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = headers;
  return encoding !== undefined || length !== '0';
}
