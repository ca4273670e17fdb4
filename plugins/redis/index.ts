import { randomBytes } from 'node:crypto';
import fp from 'fastify-plugin';
import { Redis } from 'ioredis';
import type { Config } from '../config/index.ts';
import { createRedisConnection, type RedisConnection } from './connection.ts';
import { createLease, type Lease } from './lease.ts';
import { createMailbox, type Mailbox } from './mailbox.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** State shared with other replicas through Redis; undefined without `REDIS_URL`. */
    readonly cluster: Cluster | undefined;
  }
}

export interface Cluster {
  /** Random id of this process, from its start to its end. */
  readonly replica: string;
  readonly connection: RedisConnection;
  readonly mailbox: Mailbox;
  readonly lease: Lease;
  /** Returns the full name of a key, with the configured prefix. */
  key(...names: string[]): string;
  /** Returns the key that exists as long as a replica is alive. */
  leaseKey(replica: string): string;
}

export interface RedisOptions {
  /** Undefined for a single process. */
  readonly redis: Config['redis'];
}

/** Longest wait for Redis at the start, which then continues without it. */
const CONNECT_WAIT_MS = 1_000;

const CLIENT_OPTIONS = {
  lazyConnect: true,
  // A command fails immediately without a connection, and is not sent again on the next connection.
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: null,
  autoResubscribe: false,
  connectTimeout: 2_000,
  keepAlive: 10_000,
  // After a failover the old primary answers READONLY. Reconnect: the address may now be the new primary.
  reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
  retryStrategy: (times: number) => Math.min(50 * 2 ** times, 1_000) * (0.75 + Math.random() / 2),
};

/** Adds `fastify.cluster`. Nothing waits for a Redis that is unavailable. */
export default fp<RedisOptions>(
  async (fastify, { redis }) => {
    if (redis === undefined) {
      fastify.decorate('cluster', undefined);
      return;
    }
    const { clock, metrics, log } = fastify;
    const replica = randomBytes(9).toString('base64url');
    const key = (...names: string[]) => [redis.prefix, ...names].join(':');
    const leaseKey = (id: string) => key('replica', id);
    const createClient = () => new Redis(redis.url, { ...CLIENT_OPTIONS, connectionName: `sluice-${replica}` });
    const connection = createRedisConnection(createClient(), { clock, metrics, log });
    const channelOf = (id: string) => key('to', id);
    const mailbox = createMailbox({ subscriber: createClient(), connection, clock, replica, channelOf });
    const lease = createLease(connection, clock, leaseKey(replica));
    const cluster: Cluster = { replica, connection, mailbox, lease, key, leaseKey };
    fastify.decorate('cluster', cluster);
    fastify.addHook('onClose', async () => {
      await lease.close();
      mailbox.close();
      connection.close();
    });
    await connection.connect(CONNECT_WAIT_MS);
    if (!connection.isAvailable) {
      log.warn('redis unavailable at start; streams stay in memory and cannot be resumed on other replicas');
    }
  },
  { name: 'redis', dependencies: ['clock', 'metrics'] },
);
