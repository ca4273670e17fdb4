import type { Redis } from 'ioredis';
import { type Clock, waitAtMost } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';
import type { RedisHealth } from './health.ts';
import { watchNodes } from './node-changes.ts';
import { nodeSourceOf, primariesOf } from './nodes.ts';
import { isRefusal, type Problem, problem, reasonOf } from './problems.ts';
import type { ReadQueue } from './read-queue.ts';
import { isReplyError } from './reply-error.ts';
import { RedisUnavailable, sendWithTimeout } from './timeout.ts';

export { RedisUnavailable } from './timeout.ts';

/** The connections to Redis: one for commands, all pipelined, and one for large reads. */
export interface RedisConnection {
  /** True if streams can be shared: Redis accepts writes, and messages of other replicas arrive. */
  readonly isAvailable: boolean;
  /** True if Redis replies. It may refuse writes. */
  readonly isConnected: boolean;
  /**
   * Runs a command that writes. Waits no longer than 250 ms.
   * @throws RedisUnavailable while Redis does not reply or refuses writes, and after 250 ms without a reply
   * @throws ReplyError as Redis sent it
   */
  run<T>(call: (redis: Redis) => Promise<T>): Promise<T>;
  /** Runs a command that only reads, or publishes: also while Redis refuses writes. @throws as `run` does */
  query<T>(call: (redis: Redis) => Promise<T>): Promise<T>;
  /** Reads what may be large of a key, on a connection of its own. A slow read says nothing about Redis. @throws as `query` does */
  read<T>(key: string, call: (redis: Redis) => Promise<T>): Promise<T>;
  /** Calls `send`. The commands that it runs leave in one packet, and Redis reads them at once. */
  together(send: () => void): void;
  /** Calls the listener each time Redis becomes available, also the first time. */
  onAvailable(listener: () => void): void;
  /** Calls the listener each time Redis becomes unavailable. */
  onUnavailable(listener: () => void): void;
  /** Calls the listener after the nodes of a cluster have changed: some may lack the last writes. */
  onNodesChanged(listener: () => void): void;
  /** Connects. Resolves when streams can be shared, or after `ms` milliseconds. */
  connect(ms: number): Promise<void>;
  close(): void;
}

/** The connection as the lease uses it, whose renewal shows whether Redis works. */
export interface ProbedConnection extends RedisConnection {
  /** State of the connection: `opening` is an open socket on which Redis has not said anything yet. */
  readonly state: 'closed' | 'opening' | 'open';
  /** Runs a command whatever is known of Redis. @throws as `run` does */
  probe<T>(call: (redis: Redis) => Promise<T>): Promise<T>;
  /** Closes the connection and opens it again, because of a problem. */
  reconnect(because: Problem): void;
  /** Calls the listener when a probe shall be sent: `connected`, `failures`, or the reason of a refused command. */
  onProbeNeeded(listener: (why: string) => void): void;
}

export interface RedisConnectionOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly health: RedisHealth;
  readonly reads: ReadQueue;
  /** True if commands go to several nodes, of which one may fail. Then only the lease shows whether Redis works. */
  readonly isCluster?: boolean;
}

/** Longest wait for a reply. A slow Redis counts as unavailable. */
const COMMAND_TIMEOUT_MS = 250;
/** Consecutive failures after which only probes are sent. */
const MAX_FAILURES = 5;

export function createRedisConnection(redis: Redis, options: RedisConnectionOptions): ProbedConnection {
  const { clock, metrics, health, reads, isCluster = false } = options;
  const probeListeners: ((why: string) => void)[] = [];
  const nodeListeners: (() => void)[] = [];
  let isClosed = false;
  let failures = 0;
  /** Reason for which the connection is being closed; the last error of the client. */
  let cause: Problem | undefined;

  const requestProbe = (why: string) => {
    if (!isClosed) for (const listener of probeListeners) listener(why);
  };

  const countFailure = (kind: 'timeout' | 'connection') => {
    metrics.redisFailures.inc({ reason: kind });
    failures += 1;
    if (isCluster || failures < MAX_FAILURES || !health.works('connection')) return;
    health.report('connection', problem(kind === 'timeout' ? 'timeout' : 'closed'));
    requestProbe('failures');
  };

  const send = <T>(call: (redis: Redis) => Promise<T>): Promise<T> =>
    sendWithTimeout({
      clock,
      ms: COMMAND_TIMEOUT_MS,
      call: () => call(redis),
      onReply() {
        failures = 0;
      },
      onTimeout: () => countFailure('timeout'),
      onError(error) {
        if (!isReplyError(error)) {
          countFailure('connection');
          return new RedisUnavailable(error.message);
        }
        const reason = reasonOf(error);
        failures = 0;
        metrics.redisFailures.inc({ reason: reason === 'OOM' ? 'oom' : 'reply' });
        if (isRefusal(reason)) requestProbe(reason);
        return error;
      },
    });

  const unavailable = () => Promise.reject(new RedisUnavailable('redis unavailable'));

  const onNodesChanged = () => {
    for (const listener of nodeListeners) listener();
  };
  const nodes = nodeSourceOf(redis);
  const stopWatching = nodes && watchNodes(nodes, clock, onNodesChanged);

  redis.on('error', (error: Error) => {
    const found = problem(reasonOf(error));
    cause ??= found;
    // The client asks the Sentinels again and again, and closes no connection meanwhile.
    if (found.reason === 'no_sentinel') health.report('connection', found);
  });
  redis.on('close', () => {
    health.report('connection', cause ?? problem('closed'));
    cause = undefined;
  });
  redis.on('ready', () => {
    failures = 0;
    requestProbe('connected');
  });

  return {
    get isAvailable() {
      return health.isAvailable;
    },
    get isConnected() {
      return health.works('connection');
    },
    get state() {
      if (redis.status === 'ready') return 'open';
      return redis.status === 'connect' ? 'opening' : 'closed';
    },
    run: (call) => (health.works('rights') ? send(call) : unavailable()),
    query: (call) => (health.works('connection') ? send(call) : unavailable()),
    read: (key, call) => (health.works('connection') ? reads.read(key, call) : unavailable()),
    probe: (call) => (redis.status === 'ready' ? send(call) : unavailable()),
    together(send) {
      const sockets = primariesOf(redis).map(({ stream }) => stream);
      for (const socket of sockets) socket?.cork();
      try {
        send();
      } finally {
        for (const socket of sockets) socket?.uncork();
      }
    },
    reconnect(because) {
      cause = because;
      redis.disconnect(true);
    },
    onAvailable: health.onAvailable,
    onUnavailable: health.onUnavailable,
    onNodesChanged: (listener) => void nodeListeners.push(listener),
    onProbeNeeded: (listener) => void probeListeners.push(listener),
    async connect(ms) {
      const available = new Promise<void>((resolve) => health.onAvailable(resolve));
      void redis.connect().catch(() => {});
      reads.connect();
      await waitAtMost(clock, ms, available);
    },
    close() {
      isClosed = true;
      stopWatching?.();
      health.close();
      redis.disconnect();
      reads.close();
    },
  };
}
