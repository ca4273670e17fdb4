import type { Cluster } from '../../redis/index.ts';

/** Names the keys of streams in Redis. Those of one stream are in one slot of a cluster. */

type Names = Pick<Cluster, 'streamKey'>;

/** Hash: what is known of a stream. */
export function metaKey(cluster: Names, id: string): string {
  return cluster.streamKey('meta', id);
}

/** Redis Stream: the log of a stream. */
export function logKey(cluster: Names, id: string): string {
  return cluster.streamKey('log', id);
}

/** Hash: the stored response of a stream. */
export function responseKey(cluster: Names, id: string): string {
  return cluster.streamKey('response', id);
}

/** Hash: the announcement of the end of a stream. */
export function announcementKey(cluster: Names, id: string): string {
  return cluster.streamKey('webhook', id);
}

/** Returns the keys of a stream that only the archive of answers uses. */
export function archiveKeysOf(cluster: Names, id: string): string[] {
  return [responseKey(cluster, id), announcementKey(cluster, id)];
}
