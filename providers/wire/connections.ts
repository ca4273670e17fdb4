import { subscribe } from 'node:diagnostics_channel';
import type { LookupFunction, Socket } from 'node:net';
import { buildConnector, type Dispatcher, Pool } from 'undici';
import { createAllowedLookup } from '../addresses.ts';
import { OverloadedError } from '../errors.ts';
import { coalesceReads, type ReadIntervals } from './read-coalescing.ts';
import type { SocketBudget } from './socket-budget.ts';
import { createTunnels } from './tunnel.ts';

export interface ConnectionOptions {
  /** Maximum number of sockets. Must be at least the number of concurrent calls. */
  readonly connections: number;
  /** Bound of the sockets of all providers; without it there is none. */
  readonly sockets?: SocketBudget | undefined;
  readonly readIntervals: ReadIntervals;
  readonly connectTimeoutMs: number;
  readonly headersTimeoutMs: number;
  /** True to allow connections to the addresses that `addresses.ts` forbids. */
  readonly allowPrivate?: boolean | undefined;
  /** URL of the HTTP proxy to connect through; undefined to connect directly. May contain a password. */
  readonly proxyUrl?: string | undefined;
  /** Resolves host names; by DNS if absent. */
  readonly lookup?: LookupFunction | undefined;
}

type RequestOptions = Omit<Dispatcher.RequestOptions, 'origin'>;

export interface Connections {
  request(options: RequestOptions): Promise<Dispatcher.ResponseData>;
  /** Closes all connections. Does not wait for running calls. */
  close(): Promise<void>;
}

/**
 * Age at which a set of connections gets no more calls. A busy connection would otherwise stay for ever at an address
 * that the name has long ceased to have.
 */
export const MAX_CONNECTION_AGE_MS = 60_000;

/**
 * Creates the keep-alive connections to one origin. Uses a `Pool` and not an `Agent`, because in undici 7 an aborted
 * call makes an `Agent` open an extra connection and close it unused.
 *
 * Replaces the whole pool when it is old; running answers end on its connections. The option `clientTtl` of undici 7
 * keeps one callback per call for each connection that is old and in use.
 */
export function createConnections(origin: string, options: ConnectionOptions): Connections {
  const { now } = options.readIntervals;
  const connector = buildConnector({
    timeout: options.connectTimeoutMs,
    lookup: options.allowPrivate ? options.lookup : createAllowedLookup(options.lookup),
  });
  const tunnels =
    options.proxyUrl === undefined ? undefined : createTunnels(options.proxyUrl, options.connectTimeoutMs);
  let pendingCalls = 0;

  const connect: buildConnector.connector = (target, callback) => {
    // After an abort, undici 7 opens a new connection for the aborted call. Without this check, a thousand readers
    // that disconnect would cause a thousand unused connections.
    if (pendingCalls === 0) return callback(new Error('no call is waiting for this connection'), null);
    const { sockets } = options;
    if (sockets?.reserve() === false) return callback(new OverloadedError('sockets'), null);
    const done: buildConnector.Callback = (...[error, socket]) => {
      if (socket) sockets?.attach(socket);
      else sockets?.release();
      if (socket) {
        coalesceReads(socket, options.readIntervals);
        markReuse(socket);
      }
      callback(...([error, socket] as Parameters<typeof callback>));
    };
    if (tunnels === undefined) return connector(target, done);
    tunnels.open(target).then(
      (socket) =>
        target.protocol === 'https:' ? connector({ ...target, httpSocket: socket }, done) : done(null, socket),
      (error) => done(error, null),
    );
  };

  const createPool = () =>
    new Pool(origin, {
      connections: options.connections,
      pipelining: 1,
      headersTimeout: options.headersTimeoutMs,
      // The LLM client checks the idle deadline on complete parts, because bytes alone are no progress.
      bodyTimeout: 0,
      keepAliveTimeout: 4_000,
      connect,
    });

  let pool = createPool();
  let createdAt = now();
  /** Pools that wait for the end of their running calls. */
  const retired = new Set<Pool>();

  /** Returns the current pool. An old one is closed, which neither cuts nor delays its running calls. */
  function currentPool(): Pool {
    if (now() - createdAt < MAX_CONNECTION_AGE_MS) return pool;
    const old = pool;
    retired.add(old);
    old.close().then(
      () => retired.delete(old),
      () => retired.delete(old),
    );
    pool = createPool();
    createdAt = now();
    return pool;
  }

  return {
    async request(request) {
      pendingCalls += 1;
      try {
        return await currentPool().request(request);
      } finally {
        pendingCalls -= 1;
      }
    },
    async close() {
      await Promise.all([pool, ...retired].map((one) => one.destroy()));
      await tunnels?.close();
    },
  };
}

/** Bytes that each connection had received when its last request was written. */
const bytesBeforeRequest = new WeakMap<object, number>();
subscribe('undici:client:sendHeaders', (message) => {
  const { socket } = message as { socket: Socket };
  bytesBeforeRequest.set(socket, socket.bytesRead);
});

/** Adds to each error of a connection whether a response had been read before the last request was written. */
function markReuse(socket: Socket): void {
  // Through a tunnel without TLS, these are the bytes of the answer to CONNECT.
  const bytesBefore = socket.bytesRead;
  socket.prependListener('error', (fault) => {
    Object.assign(fault, { isReused: (bytesBeforeRequest.get(socket) ?? 0) > bytesBefore });
  });
}
