import { createHash } from 'node:crypto';
import type { Cluster } from '../../redis/index.ts';
import type { Idempotency, StreamInfo } from '../types.ts';

/** Names the keys of streams in Redis. */

/** Names from which the keys of a stream are made. */
export interface StreamKeys {
  readonly info: StreamInfo;
  readonly idempotency?: Idempotency | undefined;
  /** Id of a stream of this process that had the idempotency key before, and has failed. */
  readonly replaced?: string | undefined;
}

type Names = Pick<Cluster, 'key'>;

/** Hash: what is known of a stream. */
export function metaKey(cluster: Names, id: string): string {
  return cluster.key('meta', id);
}

/** Redis Stream: the log of a stream. */
export function logKey(cluster: Names, id: string): string {
  return cluster.key('log', id);
}

/** Hash: the stored response of a stream. */
export function responseKey(cluster: Names, id: string): string {
  return cluster.key('response', `{${id}}`);
}

/** Hash: the announcement of the end of a stream. */
export function announcementKey(cluster: Names, id: string): string {
  return cluster.key('webhook', `{${id}}`);
}

/** Hashes names that clients choose: they may be long and may identify a person. */
export function hashedKey(cluster: Names, kind: string, name: string): string {
  return cluster.key(kind, createHash('sha256').update(name).digest('base64url'));
}

/** Returns the keys that scripts use. The meta key stands for a key that the stream does not have. */
export function keysOf(cluster: Names, { info, idempotency }: StreamKeys): string[] {
  const meta = metaKey(cluster, info.id);
  return [
    meta,
    logKey(cluster, info.id),
    idempotency ? hashedKey(cluster, 'key', idempotency.key) : meta,
    info.chat === undefined ? meta : hashedKey(cluster, 'chat', info.chat),
  ];
}

/** Returns the keys of a stream that only the archive of answers uses. */
export function archiveKeysOf(cluster: Names, id: string): string[] {
  return [responseKey(cluster, id), announcementKey(cluster, id)];
}
