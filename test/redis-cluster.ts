import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { Cluster as ClusterClient, type Redis } from 'ioredis';
import type { Test } from 'tap';
import { until } from './helper.ts';
import { type RedisServer, startRedis } from './redis.ts';

/** A real Redis Cluster of processes on loopback, started for one test. */
export interface RedisClusterServers {
  readonly url: string;
  /** The nodes that began as primaries, with a third of the slots each. */
  readonly primaries: readonly RedisServer[];
  /** One for each primary, if the test has asked for them. */
  readonly replicas: readonly RedisServer[];
  readonly client: ClusterClient;
  /** Returns the names of all keys, of all primaries. */
  keys(pattern?: string): Promise<string[]>;
  /** Returns the node that has a slot now. */
  primaryOf(slot: number): Promise<RedisServer>;
  slotOf(key: string): Promise<number>;
  /** Moves a slot with its keys to another primary, as `redis-cli --cluster reshard` does. */
  moveSlot(slot: number, to: RedisServer): Promise<void>;
}

const SLOTS = 16_384;
const PRIMARIES = 3;

/** @param nodeTimeoutMs silence after which a node counts as failed */
export async function startRedisCluster(
  t: Test,
  { hasReplicas = false, nodeTimeoutMs = 1_000, args = [] as readonly string[] } = {},
): Promise<RedisClusterServers> {
  const start = async () => {
    const dir = mkdtempSync(`${tmpdir()}/redis-cluster-`);
    t.teardown(() => rmSync(dir, { recursive: true, force: true }));
    const own = ['--cluster-enabled', 'yes', '--cluster-node-timeout', String(nodeTimeoutMs), '--dir', dir];
    // Full synchronisation starts at once, so that replicas are ready early.
    own.push('--repl-diskless-sync-delay', '0', '--cluster-require-full-coverage', 'no');
    return startRedis(t, ...own, ...args);
  };
  const nodes = await Promise.all(Array.from({ length: hasReplicas ? 2 * PRIMARIES : PRIMARIES }, start));
  const primaries = nodes.slice(0, PRIMARIES);
  const replicas = nodes.slice(PRIMARIES);
  const share = Math.ceil(SLOTS / PRIMARIES);
  await Promise.all(
    primaries.map(async ({ client }, i) => {
      await client.call('CLUSTER', 'SET-CONFIG-EPOCH', String(i + 1));
      await client.call('CLUSTER', 'ADDSLOTSRANGE', String(i * share), String(Math.min(SLOTS, (i + 1) * share) - 1));
    }),
  );
  const [first] = primaries as [RedisServer];
  for (const { port } of nodes) await first.client.call('CLUSTER', 'MEET', '127.0.0.1', String(port));
  const infoOf = async ({ client }: RedisServer) => String(await client.call('CLUSTER', 'INFO'));
  const isReady = async (node: RedisServer) => {
    const info = await infoOf(node);
    return info.includes('cluster_state:ok') && info.includes(`cluster_known_nodes:${nodes.length}`);
  };
  await until(async () => (await Promise.all(nodes.map(isReady))).every(Boolean), 'every node knows all nodes');
  const idOf = async ({ client }: RedisServer) => String(await client.call('CLUSTER', 'MYID'));
  await Promise.all(
    replicas.map(async (replica, i) => {
      await replica.client.call('CLUSTER', 'REPLICATE', await idOf(primaries[i] as RedisServer));
      const isLinked = async () => (await replica.client.info('replication')).includes('master_link_status:up');
      await until(isLinked, 'the replica is synchronised');
    }),
  );
  const client = new ClusterClient(nodes.map(({ port }) => ({ host: '127.0.0.1', port })));
  client.on('error', () => {});
  t.teardown(() => client.disconnect());
  const byPort = (port: number) => nodes.find((node) => node.port === port) as RedisServer;
  const alive = () => nodes.filter(({ child }) => child.exitCode === null && child.signalCode === null);

  const slots = async ([some] = alive() as [RedisServer]) =>
    (await some.client.call('CLUSTER', 'SLOTS')) as [number, number, [string, number], ...unknown[]][];
  /** @param asked a node that may know other owners than the others */
  const primaryOf = async (slot: number, asked?: RedisServer) => {
    const range = (await slots(asked && [asked])).find(([from, to]) => from <= slot && slot <= to);
    return byPort(range?.[2][1] as number);
  };

  return {
    url: `redis+cluster://${primaries.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    primaries,
    replicas,
    client,
    async keys(pattern = '*') {
      const owners = new Set((await slots()).map(([, , [, port]]) => byPort(port)));
      // The port of a node that was killed may have been taken by another process.
      const asked = alive().filter((node) => owners.has(node));
      return (await Promise.all(asked.map((node) => node.client.keys(pattern)))).flat();
    },
    primaryOf: (slot) => primaryOf(slot),
    async slotOf(key) {
      const [some] = alive() as [RedisServer];
      return Number(await some.client.call('CLUSTER', 'KEYSLOT', key));
    },
    async moveSlot(slot, to) {
      const from = await primaryOf(slot);
      const [fromId, toId] = [await idOf(from), await idOf(to)];
      const set = (node: RedisServer, ...words: string[]) =>
        node.client.call('CLUSTER', 'SETSLOT', String(slot), ...words);
      await set(to, 'IMPORTING', fromId);
      await set(from, 'MIGRATING', toId);
      for (;;) {
        const keys = (await from.client.call('CLUSTER', 'GETKEYSINSLOT', String(slot), '100')) as string[];
        if (keys.length === 0) break;
        await from.client.call('MIGRATE', '127.0.0.1', String(to.port), '', '0', '5000', 'KEYS', ...keys);
      }
      await set(to, 'NODE', toId);
      await set(from, 'NODE', toId);
      // A node that has heard of an earlier move meanwhile may name another owner again, and then each names the other.
      const agrees = async (node: RedisServer) => {
        if ((await primaryOf(slot, node)) === to) return true;
        await set(node, 'NODE', toId).catch(() => {}); // A replica follows its primary.
        return false;
      };
      await until(
        async () => (await Promise.all(alive().map(agrees))).every(Boolean),
        'all nodes know the owner of the slot',
      );
    },
  };
}

/** Starts a cluster of one node, to which everything can happen that happens to a single Redis. */
export async function startOneNodeCluster(t: Test): Promise<RedisServer> {
  const dir = mkdtempSync(`${tmpdir()}/redis-cluster-`);
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  // It learns its address from others, of which there are none.
  const own = ['--cluster-enabled', 'yes', '--cluster-announce-ip', '127.0.0.1', '--dir', dir];
  const server = await startRedis(t, ...own);
  await server.client.call('CLUSTER', 'ADDSLOTSRANGE', '0', String(SLOTS - 1));
  await until(async () => /cluster_state:ok/.test(String(await server.client.call('CLUSTER', 'INFO'))), 'it is ready');
  return {
    ...server,
    url: `redis+cluster://127.0.0.1:${server.port}`,
    get child() {
      return server.child;
    },
  };
}

/** Shortens the time to live of a key; returns what it was. */
export async function ageKey(client: Redis | ClusterClient, key: string, ms: number): Promise<number> {
  const remainingMs = await client.pttl(key);
  if (remainingMs > 0) await client.pexpire(key, remainingMs - ms);
  return remainingMs;
}
