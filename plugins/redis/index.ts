import { randomBytes } from 'node:crypto';
import fp from 'fastify-plugin';
import { Redis, ReplyError } from 'ioredis';
import type { Config } from '../config/index.ts';
import { createRedisConnection, type RedisConnection } from './connection.ts';
import { watchEvictionPolicy } from './eviction.ts';
import { createHealth } from './health.ts';
import { createLease, type Lease } from './lease.ts';
import { createMailbox, type Mailbox } from './mailbox.ts';
import { createReadQueue } from './read-queue.ts';
import { createSelfTest } from './self-test.ts';

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
/** Longest pauses between two attempts to connect: to a Redis that is unavailable, and to one that refuses. */
const MAX_PAUSE_MS = { unavailable: 1_000, refused: 10_000 };

const CLIENT_OPTIONS = {
  lazyConnect: true,
  // A command fails immediately without a connection, and is not sent again on the next connection.
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: null,
  autoResubscribe: false,
  connectTimeout: 2_000,
  keepAlive: 10_000,
  // The lease shows whether Redis works. Both would need rights that Sluice does not need otherwise.
  enableReadyCheck: false,
  disableClientInfo: true,
};

function createClient(url: string, connectionName: string): Redis {
  let isRefused = false;
  const retryStrategy = (times: number) => {
    const max = isRefused ? MAX_PAUSE_MS.refused : MAX_PAUSE_MS.unavailable;
    return Math.min(50 * 2 ** times, max) * (0.75 + Math.random() / 2);
  };
  const client = new Redis(url, { ...CLIENT_OPTIONS, connectionName, retryStrategy });
  client.on('error', (error: Error) => {
    isRefused = error instanceof ReplyError;
  });
  return client;
}

/** Adds `fastify.cluster`. Nothing waits for a Redis that is unavailable. */
export default fp<RedisOptions>(
  async (fastify, { redis }) => {
    if (redis === undefined) {
      fastify.decorate('cluster', undefined);
      return;
    }
    const { clock, metrics, log } = fastify;
    const { prefix } = redis;
    const replica = randomBytes(9).toString('base64url');
    const key = (...names: string[]) => [prefix, ...names].join(':');
    const leaseKey = (id: string) => key('replica', id);
    const channelOf = (id: string) => key('to', id);
    const connect = () => createClient(redis.url, `sluice-${replica}`);
    const client = connect();
    const health = createHealth({ metrics, log });
    const reads = createReadQueue(connect(), { clock, metrics });
    const connection = createRedisConnection(client, { clock, metrics, health, reads });
    const mailbox = createMailbox({
      subscriber: connect(),
      connection,
      clock,
      replica,
      channelOf,
      prefix,
      report: (problem) => health.report('mailbox', problem),
    });
    const selfTest = createSelfTest({
      connection,
      health,
      clock,
      key: key('test', replica),
      channel: channelOf(replica),
      prefix,
      database: client.options.db ?? 0,
    });
    client.on('ready', selfTest.request);
    const lease = createLease({ connection, health, selfTest, clock, key: leaseKey(replica) });
    watchEvictionPolicy(connection, log);
    const cluster: Cluster = { replica, connection, mailbox, lease, key, leaseKey };
    fastify.decorate('cluster', cluster);
    fastify.addHook('onClose', async () => {
      await lease.close();
      mailbox.close();
      connection.close();
    });
    await connection.connect(CONNECT_WAIT_MS);
    health.startLog();
  },
  { name: 'redis', dependencies: ['clock', 'metrics'] },
);
