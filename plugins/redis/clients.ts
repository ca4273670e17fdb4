import { Cluster as ClusterClient, Redis, type RedisOptions } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { Config } from '../config/index.ts';
import { parseRedisUrl, type RedisAddress } from '../config/redis-url.ts';
import { primariesOf } from './nodes.ts';
import { isReplyError } from './reply-error.ts';
import { ShardSubscriber } from './shard-subscriber.ts';
import type { Subscriber } from './subscriber.ts';

/** The clients of one replica, by the kind of `REDIS_URL`. */
export interface RedisClients {
  readonly isCluster: boolean;
  /** For commands. */
  readonly commands: Redis;
  /** For large reads. */
  readonly reads: Redis;
  /** For messages. A subscribed connection takes no other commands. */
  readonly subscriber: Subscriber;
  /** Number of the database. */
  readonly database: number;
}

/** Longest pauses between two attempts to connect: to a Redis that is unavailable, and to one that refuses. */
const MAX_PAUSE_MS = { unavailable: 1_000, refused: 10_000 };
/** Pause before a command of a stream is repeated, of which a node has one key and another node the other. */
const MIGRATION_RETRY_MS = 50;
/** A slot that moves redirects twice. */
const MAX_REDIRECTIONS = 4;
const SLOTS_TIMEOUT_MS = 1_000;
const SLOTS_INTERVAL_MS = 5_000;

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
} satisfies RedisOptions;

type RetryingOptions = typeof CLIENT_OPTIONS & { connectionName: string; retryStrategy(times: number): number };

export function createClients(
  { url, sentinelPassword }: NonNullable<Config['redis']>,
  { connectionName, clock }: { connectionName: string; clock: Clock },
): RedisClients {
  const address = parseRedisUrl(url);
  if (address.kind === 'cluster') return createClusterClients(address, connectionName, clock);
  const connect = () =>
    address.kind === 'sentinel'
      ? withRetries(
          (options) => new Redis({ ...options, ...sentinelOptions(address, sentinelPassword, options) }),
          connectionName,
        )
      : withRetries((options) => new Redis(url, options), connectionName);
  const commands = connect();
  const database = commands.options.db ?? 0;
  return { isCluster: false, commands, reads: connect(), subscriber: connect(), database };
}

/** Creates a client that connects again for as long as it is not closed. */
function withRetries(create: (options: RetryingOptions) => Redis, connectionName: string): Redis {
  const pauses = createPauses();
  const client = create({ ...CLIENT_OPTIONS, connectionName, retryStrategy: pauses.next });
  client.on('error', pauses.onError);
  return client;
}

function createPauses() {
  let isRefused = false;
  return {
    onError(error: Error) {
      isRefused = isReplyError(error);
    },
    next(times: number): number {
      const max = isRefused ? MAX_PAUSE_MS.refused : MAX_PAUSE_MS.unavailable;
      return Math.min(50 * 2 ** times, max) * (0.75 + Math.random() / 2);
    },
  };
}

function sentinelOptions(
  address: RedisAddress,
  sentinelPassword: string | undefined,
  { retryStrategy }: Pick<RetryingOptions, 'retryStrategy'>,
) {
  return {
    sentinels: [...address.nodes],
    name: address.name,
    ...credentialsOf(address),
    ...(sentinelPassword !== undefined && { sentinelPassword }),
    ...(address.isTls && { tls: {}, sentinelTLS: {}, enableTLSForSentinelMode: true }),
    // Without a pause, the client would give up for good once all of them have been asked.
    sentinelRetryStrategy: retryStrategy,
  };
}

function createClusterClients(address: RedisAddress, connectionName: string, clock: Clock): RedisClients {
  const nodeOptions = {
    connectTimeout: CLIENT_OPTIONS.connectTimeout,
    keepAlive: CLIENT_OPTIONS.keepAlive,
    enableReadyCheck: false,
    disableClientInfo: true,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: null,
    connectionName,
    ...credentialsOf(address),
    ...(address.isTls && { tls: {} }),
  };
  const connect = () => {
    const pauses = createPauses();
    const client = new ClusterClient([...address.nodes], {
      lazyConnect: true,
      // Commands wait while a connection opens: each opens with its first command, and the others would fail.
      enableOfflineQueue: true,
      enableReadyCheck: false,
      clusterRetryStrategy: pauses.next,
      slotsRefreshTimeout: SLOTS_TIMEOUT_MS,
      slotsRefreshInterval: SLOTS_INTERVAL_MS,
      maxRedirections: MAX_REDIRECTIONS,
      retryDelayOnTryAgain: MIGRATION_RETRY_MS,
      // What fails is not sent again: the caller knows what has to be.
      retryDelayOnFailover: 0,
      retryDelayOnClusterDown: 0,
      // The certificate of a node names its host.
      ...(address.isTls && {
        dnsLookup: (host: string, done: (error: null, address: string) => void) => done(null, host),
      }),
      redisOptions: nodeOptions,
    });
    client.on('node error', (error: Error) => {
      // While one node fails, the others work. Before the first answer, its reply says why there is none.
      pauses.onError(error);
      if (client.status !== 'ready' && isReplyError(error)) client.emit('error', error);
    });
    // It has the same commands.
    return client as unknown as Redis;
  };
  const commands = connect();
  const subscriber = new ShardSubscriber({
    clock,
    nodes: () => {
      const primaries = primariesOf(commands).map(({ options }) => ({ host: options.host, port: options.port }));
      return [...primaries, ...address.nodes].filter(isNode);
    },
    connect: (node) =>
      new Redis({ ...nodeOptions, ...node, lazyConnect: true, enableOfflineQueue: false, retryStrategy: () => null }),
  });
  return { isCluster: true, commands, reads: connect(), subscriber, database: 0 };
}

function isNode(node: {
  host?: string | undefined;
  port?: number | undefined;
}): node is { host: string; port: number } {
  return node.host !== undefined && node.port !== undefined;
}

function credentialsOf({ user, password }: RedisAddress) {
  return { ...(user !== undefined && { username: user }), ...(password !== undefined && { password }) };
}
