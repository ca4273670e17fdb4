import { randomBytes } from 'node:crypto';
import fp from 'fastify-plugin';
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
  /** Returns the name of a key of a stream. All keys of one stream are in one slot of a cluster. */
  streamKey(kind: string, id: string): string;
  /** Returns the key that exists as long as a replica is alive. The leases of all replicas are in one slot. */
  leaseKey(replica: string): string;
}

export interface RedisOptions {
  /** Undefined for a single process. */
  readonly redis: Config['redis'];
}

/** Longest wait for Redis at the start, which then continues without it. */
const CONNECT_WAIT_MS = 1_000;
/** Adds `fastify.cluster`. Nothing waits for a Redis that is unavailable. */
export default fp<RedisOptions>(
  async (fastify, { redis }) => {
    if (redis === undefined) {
      fastify.decorate('cluster', undefined);
      return;
    }
    // Without Redis, its client is not loaded.
    const { createClients } = await import('./clients.ts');
    const { clock, metrics, log } = fastify;
    const { prefix } = redis;
    const replica = randomBytes(9).toString('base64url');
    const key = (...names: string[]) => [prefix, ...names].join(':');
    const streamKey = (kind: string, id: string) => key(kind, `{${id}}`);
    const leaseKey = (id: string) => key('{replica}', id);
    const channelOf = (id: string) => key('to', id);
    const clients = createClients(redis, { connectionName: `sluice-${replica}`, clock });
    const { commands, isCluster, database } = clients;
    const health = createHealth({ metrics, log });
    const reads = createReadQueue(clients.reads, { clock, metrics });
    const connection = createRedisConnection(commands, { clock, metrics, health, reads, isCluster });
    const mailbox = createMailbox({
      subscriber: clients.subscriber,
      isSharded: isCluster,
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
      key: key('test', `{${replica}}`),
      channel: channelOf(replica),
      prefix,
      database,
      isSharded: isCluster,
    });
    commands.on('ready', selfTest.request);
    const lease = createLease({ connection, health, selfTest, clock, key: leaseKey(replica) });
    watchEvictionPolicy(connection, log);
    const cluster: Cluster = { replica, connection, mailbox, lease, key, streamKey, leaseKey };
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
