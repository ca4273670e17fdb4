import type { Cluster, Redis } from 'ioredis';
import type { NodeSource } from './node-changes.ts';

/** Returns the primaries behind a client. */
export function primariesOf(client: Redis): Redis[] {
  return clusterOf(client)?.nodes('master') ?? [client];
}

/** Returns what tells of the nodes of a cluster; undefined for another client. */
export function nodeSourceOf(client: Redis): NodeSource | undefined {
  return clusterOf(client);
}

/** Returns the client as one of a cluster, which has the same commands; undefined if it is not one. */
function clusterOf(client: Redis): Cluster | undefined {
  const actual: Redis | Cluster = client;
  return 'nodes' in actual ? (actual as unknown as Cluster) : undefined;
}
