import { randomBytes } from 'node:crypto';
import fp from 'fastify-plugin';
import { Redis } from 'ioredis';
import { createRedisConnection, type RedisConnection } from './connection.ts';
import { createLease, type Lease } from './lease.ts';
import { createMailbox, type Mailbox } from './mailbox.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** What this process shares with other replicas; undefined where it is alone. */
    readonly cluster: Cluster | undefined;
  }
}

export interface Cluster {
  /** This process, from its start to its end. */
  readonly replica: string;
  readonly connection: RedisConnection;
  readonly mailbox: Mailbox;
  readonly lease: Lease;
  /** The full name of a key. */
  key(...names: string[]): string;
  /** The key that exists for as long as a replica lives. */
  leaseKey(replica: string): string;
}

/** How long a start waits for Redis before it goes on without. */
const CONNECT_WAIT_MS = 1_000;

const OPTIONS = {
  lazyConnect: true,
  // A command fails at once when there is no connection, and is not sent a second time on the next.
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: null,
  autoResubscribe: false,
  connectTimeout: 2_000,
  keepAlive: 10_000,
  // A primary that has become a replica refuses to write: its address may lead to the new one.
  reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
  retryStrategy: (times: number) => Math.min(50 * 2 ** times, 1_000) * (0.75 + Math.random() / 2),
};

/** `fastify.shared`: Redis, where `REDIS_URL` names one. Nothing waits for it when it is away. */
export default fp(
  async (fastify) => {
    const { clock, metrics, log, config } = fastify;
    if (config.redis === undefined) {
      fastify.decorate('cluster', undefined);
      return;
    }
    const replica = randomBytes(9).toString('base64url');
    const key = (...names: string[]) => [config.redis?.prefix, ...names].join(':');
    const leaseKey = (one: string) => key('replica', one);
    const connect = () => new Redis(config.redis?.url ?? '', { ...OPTIONS, connectionName: `sluice-${replica}` });
    const connection = createRedisConnection(connect(), clock, metrics, log);
    const mailbox = createMailbox({ subscriber: connect(), link: connection, clock }, replica, (to) => key('to', to));
    const lease = createLease(connection, clock, leaseKey(replica));
    const shared: Cluster = { replica, connection, mailbox, lease, key, leaseKey };
    fastify.decorate('cluster', shared);
    fastify.addHook('onClose', async () => {
      await lease.close();
      mailbox.close();
      connection.close();
    });
    await connection.waitUntilReady(CONNECT_WAIT_MS);
    if (!connection.isAvailable) log.warn('redis does not answer: started without it');
  },
  { name: 'redis', dependencies: ['config', 'clock', 'metrics'] },
);
