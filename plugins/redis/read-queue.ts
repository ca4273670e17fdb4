import type { Redis } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';
import { nodeOf, reopen } from './nodes.ts';
import { isReplyError } from './reply-error.ts';
import { RedisUnavailable, sendWithTimeout } from './timeout.ts';

/**
 * Reads that may be large, a few at a time on a connection of their own. Neither their replies nor their number
 * delay other commands, and a slow one says nothing about Redis. Each node of a cluster has its own turns: one that does
 * not answer delays no reads of the others.
 */
export interface ReadQueue {
  /**
   * Sends a read of a key when its turn has come.
   * @throws RedisUnavailable without a reply in time; ReplyError as Redis sent it
   */
  read<T>(key: string, call: (redis: Redis) => Promise<T>): Promise<T>;
  connect(): void;
  close(): void;
}

export interface ReadQueueOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
}

/** The reads of one node. */
interface Lane {
  waiting: { start(): void; reject(error: Error): void }[];
  running: number;
  /** Consecutive reads without a reply. */
  unanswered: number;
}

/** Reads that are sent to one node at the same time. */
const MAX_CONCURRENT_READS = 4;
/** Longest wait for a reply, from when the read is sent. */
const READ_TIMEOUT_MS = 1_000;
/** Consecutive unanswered reads after which the connection is opened again. */
const MAX_UNANSWERED_READS = 4;

export function createReadQueue(redis: Redis, { clock, metrics }: ReadQueueOptions): ReadQueue {
  /** By the name of the node. Kept while it has reads, or unanswered ones. */
  const lanes = new Map<string, Lane>();

  const startNext = (lane: Lane) => {
    while (lane.running < MAX_CONCURRENT_READS && lane.waiting.length > 0) lane.waiting.shift()?.start();
  };

  const rejectWaiting = (lane: Lane) => {
    const rejected = lane.waiting;
    lane.waiting = [];
    for (const { reject } of rejected) reject(new RedisUnavailable('reads are not answered'));
  };
  const rejectAll = () => {
    for (const lane of lanes.values()) rejectWaiting(lane);
  };

  const send = <T>(node: string, lane: Lane, call: (redis: Redis) => Promise<T>): Promise<T> =>
    sendWithTimeout({
      clock,
      ms: READ_TIMEOUT_MS,
      call: () => (redis.status === 'ready' ? call(redis) : Promise.reject(new Error('not connected'))),
      onReply() {
        lane.unanswered = 0;
      },
      onTimeout() {
        metrics.redisFailures.inc({ reason: 'read' });
        lane.unanswered += 1;
        if (lane.unanswered < MAX_UNANSWERED_READS) return;
        lane.unanswered = 0;
        rejectWaiting(lane);
        reopen(redis, node);
      },
      onError: (error) => (isReplyError(error) ? error : new RedisUnavailable(error.message)),
    });

  redis.on('error', () => {}); // 'close' follows.
  redis.on('close', rejectAll);

  return {
    read: (key, call) =>
      new Promise((resolve, reject) => {
        const node = nodeOf(redis, key);
        const lane = lanes.get(node) ?? { waiting: [], running: 0, unanswered: 0 };
        lanes.set(node, lane);
        const start = () => {
          lane.running += 1;
          send(node, lane, call)
            .then(resolve, reject)
            .finally(() => {
              lane.running -= 1;
              startNext(lane);
              if (lane.running === 0 && lane.unanswered === 0) lanes.delete(node);
            });
        };
        lane.waiting.push({ start, reject });
        startNext(lane);
      }),
    connect: () => void redis.connect().catch(() => {}),
    close() {
      redis.disconnect();
      rejectAll();
    },
  };
}
