import type { FastifyBaseLogger } from 'fastify';
import { type Redis, ReplyError } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';

/** Redis cannot be asked now: it is away, or too slow to wait for. */
export class RedisUnavailable extends Error {
  override readonly name = 'RedisAway';
}

/** The one connection for commands, all pipelined. No command waits for a Redis that is away. */
export interface RedisConnection {
  /** Whether commands are sent at all. */
  readonly isAvailable: boolean;
  /**
   * Runs a command.
   * @throws RedisAway while the breaker is open, and after 250 ms; what Redis says against the command as it is
   */
  run<T>(call: (redis: Redis) => Promise<T>): Promise<T>;
  /** Calls the listener each time that Redis is back. */
  onReconnect(listener: () => void): void;
  /** Resolves when Redis has answered for the first time, or after `ms`. */
  waitUntilReady(ms: number): Promise<void>;
  close(): void;
}

/** Longest wait for an answer: slow is as bad as away. */
const COMMAND_TIMEOUT_MS = 250;
/** After so many failures in a row nothing is sent any more but a probe. */
const MAX_FAILURES = 5;
const PROBE_MS = 500;
/** So many probes without an answer, on a connection that looks open: it is given up. */
const MAX_UNANSWERED_PROBES = 6;

export function createRedisConnection(
  redis: Redis,
  clock: Clock,
  metrics: Metrics,
  log: FastifyBaseLogger,
): RedisConnection {
  const listeners: (() => void)[] = [];
  let up = false;
  let closed = false;
  let failures = 0;
  let unanswered = 0;
  let cancelProbe: (() => void) | undefined;

  const markUnavailable = (why: string) => {
    if (closed) return;
    if (up) log.warn({ why }, 'redis is away: streams go on in this process alone');
    up = false;
    metrics.redisUp.set(0);
    cancelProbe ??= clock.after(PROBE_MS, () => void probe());
  };

  const countFailure = (why: string) => {
    metrics.redisFailures.inc({ reason: why });
    failures += 1;
    if (failures >= MAX_FAILURES) markUnavailable(why);
  };

  /** What it settles to is decided at the deadline, whatever comes later. */
  const withTimeout = <T>(call: (redis: Redis) => Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      let over = false;
      const expire = () => {
        if (over) return;
        over = true;
        countFailure('timeout');
        reject(new RedisUnavailable('no answer in time'));
      };
      // One turn later: after a long turn, or a stopped process, the answer may lie in the socket.
      const cancel = clock.after(COMMAND_TIMEOUT_MS, () => void setImmediate(expire));
      const settle = (then: () => void) => {
        if (over) return;
        over = true;
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
    if (closed) return;
    try {
      if (redis.status !== 'ready') throw new RedisUnavailable('not connected');
      await withTimeout((one) => one.ping());
      unanswered = 0;
      if (up || closed) return;
      up = true;
      metrics.redisUp.set(1);
      log.info('redis answers');
      for (const listener of listeners) listener();
    } catch {
      unanswered = redis.status === 'ready' ? unanswered + 1 : 0;
      if (unanswered >= MAX_UNANSWERED_PROBES) redis.disconnect(true);
      markUnavailable('probe');
    }
  };

  redis.on('error', () => {}); // 'close' follows
  redis.on('close', () => markUnavailable('connection'));
  redis.on('ready', () => {
    cancelProbe?.();
    cancelProbe = undefined;
    void probe();
  });
  metrics.redisUp.set(0);

  return {
    get isAvailable() {
      return up;
    },
    run: (call) => (up ? withTimeout(call) : Promise.reject(new RedisUnavailable('redis is away'))),
    onReconnect: (listener) => void listeners.push(listener),
    waitUntilReady: (ms) =>
      new Promise((resolve) => {
        const cancel = clock.after(ms, resolve);
        listeners.push(() => {
          cancel();
          resolve();
        });
        void redis.connect().catch(() => {});
      }),
    close() {
      closed = true;
      up = false;
      cancelProbe?.();
      redis.disconnect();
    },
  };
}
