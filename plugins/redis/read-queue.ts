import type { Redis } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';
import { isReplyError } from './reply-error.ts';
import { RedisUnavailable, sendWithTimeout } from './timeout.ts';

/**
 * Reads that may be large, a few at a time on a connection of their own. Neither their replies nor their number
 * delay other commands, and a slow one says nothing about Redis.
 */
export interface ReadQueue {
  /** Sends a read when its turn has come. @throws RedisUnavailable without a reply in time; ReplyError as Redis sent it */
  read<T>(call: (redis: Redis) => Promise<T>): Promise<T>;
  connect(): void;
  close(): void;
}

export interface ReadQueueOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
}

/** Reads that are sent at the same time. */
const MAX_CONCURRENT_READS = 4;
/** Longest wait for a reply, from when the read is sent. */
const READ_TIMEOUT_MS = 1_000;
/** Consecutive unanswered reads after which the connection is opened again. */
const MAX_UNANSWERED_READS = 4;

export function createReadQueue(redis: Redis, { clock, metrics }: ReadQueueOptions): ReadQueue {
  let waiting: { start(): void; reject(error: Error): void }[] = [];
  let running = 0;
  let unanswered = 0;

  const startNext = () => {
    while (running < MAX_CONCURRENT_READS && waiting.length > 0) waiting.shift()?.start();
  };

  const rejectWaiting = () => {
    const rejected = waiting;
    waiting = [];
    for (const { reject } of rejected) reject(new RedisUnavailable('reads are not answered'));
  };

  const send = <T>(call: (redis: Redis) => Promise<T>): Promise<T> =>
    sendWithTimeout({
      clock,
      ms: READ_TIMEOUT_MS,
      call: () => (redis.status === 'ready' ? call(redis) : Promise.reject(new Error('not connected'))),
      onReply() {
        unanswered = 0;
      },
      onTimeout() {
        metrics.redisFailures.inc({ reason: 'read' });
        unanswered += 1;
        if (unanswered < MAX_UNANSWERED_READS) return;
        unanswered = 0;
        redis.disconnect(true);
      },
      onError: (error) => (isReplyError(error) ? error : new RedisUnavailable(error.message)),
    });

  redis.on('error', () => {}); // 'close' follows.
  redis.on('close', rejectWaiting);

  return {
    read: (call) =>
      new Promise((resolve, reject) => {
        const start = () => {
          running += 1;
          send(call)
            .then(resolve, reject)
            .finally(() => {
              running -= 1;
              startNext();
            });
        };
        waiting.push({ start, reject });
        startNext();
      }),
    connect: () => void redis.connect().catch(() => {}),
    close() {
      redis.disconnect();
      rejectWaiting();
    },
  };
}
