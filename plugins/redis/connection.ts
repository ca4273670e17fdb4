import type { FastifyBaseLogger } from 'fastify';
import { type Redis, ReplyError } from 'ioredis';
import { type Clock, waitAtMost } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';

/** Redis cannot be used now: it is not connected, or too slow. */
export class RedisUnavailable extends Error {
  override readonly name = 'RedisUnavailable';
}

/** The one connection for commands, all pipelined. No command waits for a Redis that is unavailable. */
export interface RedisConnection {
  /** False while the circuit breaker is open: then commands are not sent at all. */
  readonly isAvailable: boolean;
  /**
   * Runs a command.
   * @throws RedisUnavailable while the circuit breaker is open, and after 250 ms without a reply
   * @throws ReplyError as Redis sent it
   */
  run<T>(call: (redis: Redis) => Promise<T>): Promise<T>;
  /** Calls the listener each time Redis becomes available. */
  onReconnect(listener: () => void): void;
  /** Connects. Resolves when Redis has answered for the first time, or after `ms` milliseconds. */
  waitUntilReady(ms: number): Promise<void>;
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
const PROBE_MS = 500;
/** Unanswered probes after which a connection that looks open is given up. */
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
      // One turn later: after a long turn, or a paused process, the reply may already be in the socket.
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
    onReconnect: (listener) => void listeners.push(listener),
    async waitUntilReady(ms) {
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
