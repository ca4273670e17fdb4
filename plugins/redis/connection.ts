import type { FastifyBaseLogger } from 'fastify';
import { type Redis, ReplyError } from 'ioredis';
import { type Clock, waitAtMost } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';

/** Redis cannot be used now: it is not connected, or too slow. */
export class RedisUnavailable extends Error {
  override readonly name = 'RedisUnavailable';
}

/** The one connection for commands, all pipelined. A command never waits longer than 250 ms. */
export interface RedisConnection {
  /** False before the first reply, and while the circuit breaker is open. Commands are not sent then. */
  readonly isAvailable: boolean;
  /**
   * Runs a command.
   * @throws RedisUnavailable while the circuit breaker is open, and after 250 ms without a reply
   * @throws ReplyError as Redis sent it
   */
  run<T>(call: (redis: Redis) => Promise<T>): Promise<T>;
  /** Calls the listener each time Redis becomes available, also the first time. */
  onAvailable(listener: () => void): void;
  /** Connects. Resolves when Redis has answered for the first time, or after `ms` milliseconds. */
  connect(ms: number): Promise<void>;
  close(): void;
}

export interface RedisConnectionOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
}

/** Longest wait for a reply. A slow Redis counts as unavailable. */
const COMMAND_TIMEOUT_MS = 250;
/** Consecutive failures after which only probes are sent. */
const MAX_FAILURES = 5;
/** Time between two probes. */
const PROBE_MS = 500;
/** Unanswered probes after which a connection that looks open is closed and opened again. */
const MAX_UNANSWERED_PROBES = 6;

export function createRedisConnection(redis: Redis, { clock, metrics, log }: RedisConnectionOptions): RedisConnection {
  const listeners: (() => void)[] = [];
  let isAvailable = false;
  let isClosed = false;
  let failures = 0;
  let unansweredProbes = 0;
  let cancelProbe: (() => void) | undefined;

  const markUnavailable = (reason: string) => {
    if (isClosed) return;
    if (isAvailable) {
      log.warn({ reason }, 'redis unavailable; streams continue in memory and cannot be resumed on other replicas');
    }
    isAvailable = false;
    metrics.redisUp.set(0);
    cancelProbe ??= clock.after(PROBE_MS, () => void probe());
  };

  const countFailure = (reason: string) => {
    metrics.redisFailures.inc({ reason });
    failures += 1;
    if (failures >= MAX_FAILURES) markUnavailable(reason);
  };

  /** Settles at the deadline at the latest; a later reply is ignored. */
  const withTimeout = <T>(call: (redis: Redis) => Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      let isSettled = false;
      const expire = () => {
        if (isSettled) return;
        isSettled = true;
        countFailure('timeout');
        reject(new RedisUnavailable('no reply in time'));
      };
      // Waits one more turn: after a long turn or a pause, the reply may already be in the socket.
      const cancel = clock.after(COMMAND_TIMEOUT_MS, () => void setImmediate(expire));
      const settle = (then: () => void) => {
        if (isSettled) return;
        isSettled = true;
        cancel();
        then();
      };
      call(redis).then(
        (value) =>
          settle(() => {
            failures = 0;
            resolve(value);
          }),
        (error: Error) =>
          settle(() => {
            if (error instanceof ReplyError) {
              metrics.redisFailures.inc({ reason: error.message.startsWith('OOM') ? 'oom' : 'reply' });
              reject(error);
              return;
            }
            countFailure('connection');
            reject(new RedisUnavailable(error.message));
          }),
      );
    });

  const probe = async () => {
    cancelProbe = undefined;
    if (isClosed) return;
    try {
      if (redis.status !== 'ready') throw new RedisUnavailable('not connected');
      await withTimeout((client) => client.ping());
      unansweredProbes = 0;
      if (isAvailable || isClosed) return;
      isAvailable = true;
      metrics.redisUp.set(1);
      log.info('redis available');
      for (const listener of listeners) listener();
    } catch {
      unansweredProbes = redis.status === 'ready' ? unansweredProbes + 1 : 0;
      if (unansweredProbes >= MAX_UNANSWERED_PROBES) redis.disconnect(true);
      markUnavailable('probe');
    }
  };

  redis.on('error', () => {}); // 'close' follows.
  redis.on('close', () => markUnavailable('connection'));
  redis.on('ready', () => {
    cancelProbe?.();
    cancelProbe = undefined;
    void probe();
  });
  metrics.redisUp.set(0);

  return {
    get isAvailable() {
      return isAvailable;
    },
    run: (call) => (isAvailable ? withTimeout(call) : Promise.reject(new RedisUnavailable('redis unavailable'))),
    onAvailable: (listener) => void listeners.push(listener),
    async connect(ms) {
      const ready = new Promise<void>((resolve) => listeners.push(resolve));
      void redis.connect().catch(() => {});
      await waitAtMost(clock, ms, ready);
    },
    close() {
      isClosed = true;
      isAvailable = false;
      cancelProbe?.();
      redis.disconnect();
    },
  };
}
