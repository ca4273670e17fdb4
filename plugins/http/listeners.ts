import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { type AddressInfo, createServer, type ListenOptions, type Server } from 'node:net';
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Listens on `host` and `port` through the configured number of sockets, or through one socket if
     * the platform cannot share a port.
     * @throws the system's error, such as EADDRINUSE
     */
    openListenSockets(host: string, port: number): Promise<void>;
    /** Refuses new connections and closes idle ones, so that a gateway chooses another replica. */
    stopAccepting(): void;
  }
}

export interface ListenersOptions {
  /** Number of sockets that listen on the port, 1 to 256. */
  readonly listenSockets: number;
  /** Bytes that a socket may buffer. */
  readonly highWaterMark: number;
}

/**
 * Opens several listening sockets on one port. Since libuv 1.45 (libuv/libuv#3696) a listening socket accepts one connection per turn of the event
 * loop. On a busy core a turn takes 20 to 40 ms, so that new streams wait for seconds. The event loop
 * accepts from several sockets of the same process in one turn.
 */
export default fp<ListenersOptions>(
  async (fastify, { listenSockets, highWaterMark }) => {
    const extraSockets: Server[] = [];

    /** Opens a socket whose connections the main server answers. */
    const openExtraSocket = async (options: SharedPortOptions) => {
      extraSockets.push(await listen(createExtraSocket(fastify, highWaterMark), options));
    };

    fastify.decorate('openListenSockets', async (host: string, port: number) => {
      const [address, ...otherAddresses] = await resolveHost(host);
      const shared = await openMainSocket(address, port);
      for (const other of [address, ...otherAddresses]) {
        for (let i = other === address ? 1 : 0; i < (shared.reusePort ? listenSockets : 1); i++) {
          const opened = openExtraSocket({ host: other, ...shared });
          // A name may have an address that this host does not.
          await (other === address ? opened : opened.catch(() => {}));
        }
      }
    });

    /** Opens the socket of the main server. Returns the port, and whether other sockets can share it. */
    async function openMainSocket(host: string, port: number): Promise<SharedPortOptions> {
      if (listenSockets === 1) {
        await fastify.listen({ host, port });
        return { port: (fastify.server.address() as AddressInfo).port };
      }
      // The port is first bound without sharing. Otherwise a second instance could start unnoticed and
      // receive half of the connections.
      const reserved = await reservePort({ host, port });
      const canShare = await canSharePort({ host, port: reserved });
      const shared = { port: reserved, ...(canShare && { reusePort: true }) };
      if (!canShare) {
        fastify.log.debug({ node: process.version }, 'this platform cannot share a port; listening on one socket');
      }
      await fastify.listen({ host, ...shared });
      return shared;
    }

    // The main server owns their connections and closes them, so there is nothing to wait for.
    const closeExtraSockets = () => {
      for (const socket of extraSockets.splice(0)) socket.close();
    };

    let isStopping = false;
    fastify.decorate('stopAccepting', () => {
      isStopping = true;
      closeExtraSockets();
      fastify.server.close(); // Also closes idle connections.
    });
    fastify.addHook('onRequest', async (_, reply) => {
      if (isStopping) reply.header('connection', 'close');
    });
    // Closes connections that were open before: a gateway would send its next request on them.
    fastify.addHook('onResponse', async ({ raw }) => {
      if (isStopping) raw.socket.end();
    });

    fastify.addHook('onClose', async () => closeExtraSockets());
  },
  { name: 'listeners' },
);

/** Creates a server that hands its connections to the main server. Same options as Node's HTTP servers. */
function createExtraSocket({ server }: FastifyInstance, highWaterMark: number): Server {
  const options = { allowHalfOpen: true, noDelay: true, highWaterMark };
  const extraSocket = createServer(options, (socket) => server.emit('connection', socket));
  // A connection that could not be accepted is lost. Without a listener, the process would end.
  extraSocket.on('error', (error) => {
    if (extraSocket.listening) server.emit('error', error);
  });
  return extraSocket;
}

/**
 * Returns all addresses of `localhost`, and any other host unchanged. Fastify would open a further HTTP server for
 * each address: its connections would not be counted.
 */
async function resolveHost(host: string): Promise<[string, ...string[]]> {
  if (host !== 'localhost') return [host];
  const [first, ...others] = await lookup(host, { all: true });
  return first === undefined ? [host] : [first.address, ...others.map(({ address }) => address)];
}

type SharedPortOptions = ListenOptions & { reusePort?: boolean };

async function listen(server: Server, options: SharedPortOptions): Promise<Server> {
  server.listen(options);
  await once(server, 'listening');
  return server;
}

/** Binds the port without sharing, closes it again and returns it. Port 0 becomes a free port. */
async function reservePort(options: ListenOptions): Promise<number> {
  const server = await listen(createServer(), options);
  const { port } = server.address() as { port: number };
  await close(server);
  return port;
}

/** Returns true if two sockets can listen on one port. Node before 22.12 ignores the option, some systems reject it. */
async function canSharePort(options: ListenOptions): Promise<boolean> {
  const opened: Server[] = [];
  try {
    for (let i = 0; i < 2; i++) {
      opened.push(await listen(createServer(), { ...options, reusePort: true } as SharedPortOptions));
    }
    return true;
  } catch {
    return false;
  } finally {
    await Promise.all(opened.map(close));
  }
}

async function close(server: Server): Promise<void> {
  server.close();
  await once(server, 'close');
}
