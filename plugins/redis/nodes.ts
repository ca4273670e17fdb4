import slotOf from 'cluster-key-slot';
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

/** Returns the name of the node that has a key; an empty one if there is only one, or if it is unknown. */
export function nodeOf(client: Redis, key: string): string {
  return clusterOf(client)?.slots[slotOf(key)]?.[0] ?? '';
}

/** Opens the connection to a node again. Of a cluster, the next command opens it, or the next look at its slots. */
export function reopen(client: Redis, node: string): void {
  const cluster = node === '' ? undefined : clusterOf(client);
  if (cluster === undefined) {
    client.disconnect(true);
    return;
  }
  const found = cluster.nodes('all').find(({ options: { host, port } }) => `${host}:${port}` === node);
  found?.disconnect();
}

/** Returns the client as one of a cluster, which has the same commands; undefined if it is not one. */
function clusterOf(client: Redis): Cluster | undefined {
  const actual: Redis | Cluster = client;
  return 'nodes' in actual ? (actual as unknown as Cluster) : undefined;
}
