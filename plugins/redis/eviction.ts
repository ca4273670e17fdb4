import type { FastifyBaseLogger } from 'fastify';
import type { RedisConnection } from './connection.ts';
import { primariesOf } from './nodes.ts';

/** The only policy that removes no running streams and no leases of live replicas. */
const SAFE_POLICY = 'noeviction';

/** Reads the eviction policy at each connect, and warns once of a wrong one. */
export function watchEvictionPolicy(connection: RedisConnection, log: FastifyBaseLogger): void {
  const warned = new Set<string>();
  const check = async () => {
    for (const policy of await readPolicies(connection)) {
      if (policy === SAFE_POLICY || warned.has(policy)) continue;
      warned.add(policy);
      log.warn(
        { policy, hint: 'set maxmemory-policy to noeviction' },
        'redis may evict running streams and leases; answers can then end as lost',
      );
    }
  };
  connection.onAvailable(() => void check());
}

/** Returns the policies of all primaries; none if the user may neither run INFO nor read the configuration. */
async function readPolicies(connection: RedisConnection): Promise<string[]> {
  try {
    const infos = await connection.query((redis) => Promise.all(primariesOf(redis).map((node) => node.info('memory'))));
    return infos.flatMap((info) => /^maxmemory_policy:(\S+)/m.exec(info)?.[1] ?? []);
  } catch {
    return [];
  }
}
