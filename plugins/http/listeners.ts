import { once } from 'node:events';
import { createServer, type ListenOptions, type Server } from 'node:net';
import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Listens on `host` and `port` through as many sockets as the configuration says, where the
     * platform can share a port between sockets, else through one.
     * @throws the system's error, such as EADDRINUSE
     */
    openListenSockets(host: string, port: number): Promise<void>;
    /** From now on new connections are refused, and those that fall idle are closed, so that a gateway goes elsewhere. */
    stopAccepting(): void;
  }
}

/**
 * Since libuv 1.45 (libuv/libuv#3696) a listening socket accepts one connection per turn of the event
 * loop. A busy loop's turns take 20 to 40 ms, so new streams queue for seconds behind running ones.
 * Several sockets on the port, in the same process, are accepted from in the same turn.
 */
export default fp(
  async (fastify) => {
    const { listenSockets, streams } = fastify.config;
    const extraSockets: Server[] = [];

    fastify.decorate('openListenSockets', async (host: string, port: number) => {
      if (listenSockets === 1) return void (await fastify.listen({ host, port }));
      // Claimed alone first: sockets that share would let a second instance in unnoticed, and give
      // it half of the connections.
      const claimed = await reservePort({ host, port });
      if (!(await canShare({ host, port: claimed }))) {
        fastify.log.debug({ node: process.version }, 'this platform cannot share a port: listening through one socket');
        return void (await fastify.listen({ host, port: claimed }));
      }
      const shared = { port: claimed, reusePort: true };
      await fastify.listen({ host, ...shared });
      const open = () => createExtraSocket(fastify, streams.highWaterMark);
      for (const bound of fastify.addresses()) {
        if (typeof bound === 'string') continue; // A pipe.
        const { address } = bound;
        for (let i = 1; i < listenSockets; i++)
          extraSockets.push(await listening(open(), { host: address, ...shared }));
      }
    });

    // Their connections are the main server's, which closes them; so nothing is waited for here.
    const closeExtraSockets = () => {
      for (const sibling of extraSockets.splice(0)) sibling.close();
    };

    let isStopped = false;
    fastify.decorate('stopAccepting', () => {
      isStopped = true;
      closeExtraSockets();
      // Closes what is idle, too.
      fastify.server.close();
    });
    fastify.addHook('onRequest', async (_, reply) => {
      if (isStopped) reply.header('connection', 'close');
    });
    // Those that were open before, at once: a gateway would send the next question on it.
    fastify.addHook('onResponse', async ({ raw }) => {
      if (isStopped) raw.socket.end();
    });

    fastify.addHook('onClose', async () => closeExtraSockets());
  },
  { name: 'listeners', dependencies: ['config'] },
);

/** A socket whose connections the main server handles, with the settings of Node's HTTP servers. */
function createExtraSocket({ server }: FastifyInstance, highWaterMark: number): Server {
  const options = { allowHalfOpen: true, noDelay: true, highWaterMark };
  return createServer(options, (socket) => server.emit('connection', socket));
}

type SharedPortOptions = ListenOptions & { reusePort?: boolean };

async function listening(server: Server, options: SharedPortOptions): Promise<Server> {
  server.listen(options);
  await once(server, 'listening');
  return server;
}

/** Binds the port without sharing, and gives it up again; the port, which may have been 0. */
async function reservePort(options: ListenOptions): Promise<number> {
  const server = await listening(createServer(), options);
  const { port } = server.address() as { port: number };
  await closed(server);
  return port;
}

/** By trying: Node before 22.12 ignores the option, and some systems refuse it. */
async function canShare(options: ListenOptions): Promise<boolean> {
  const opened: Server[] = [];
  try {
    for (let i = 0; i < 2; i++)
      opened.push(await listening(createServer(), { ...options, reusePort: true } as SharedPortOptions));
    return true;
  } catch {
    return false;
  } finally {
    await Promise.all(opened.map(closed));
  }
}

async function closed(server: Server): Promise<void> {
  server.close();
  await once(server, 'close');
}
