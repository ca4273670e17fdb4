import type { FastifyBaseLogger } from 'fastify';
import type { RedisConnection } from './connection.ts';

/** The only policy that removes no running streams and no leases of live replicas. */
const SAFE_POLICY = 'noeviction';

/** Reads the eviction policy at each connect, and warns once of a wrong one. */
export function watchEvictionPolicy(connection: RedisConnection, log: FastifyBaseLogger): void {
  const warned = new Set<string>();
  const check = async () => {
    const policy = await readPolicy(connection);
    if (policy === undefined || policy === SAFE_POLICY || warned.has(policy)) return;
    warned.add(policy);
    log.warn(
      { policy, hint: 'set maxmemory-policy to noeviction' },
      'redis may evict running streams and leases; answers can then end as lost',
    );
  };
  connection.onAvailable(() => void check());
}

/** Returns undefined if the user may neither run INFO nor read the configuration. */
async function readPolicy(connection: RedisConnection): Promise<string | undefined> {
  try {
    const info = await connection.query((redis) => redis.info('memory'));
    return /^maxmemory_policy:(\S+)/m.exec(info)?.[1];
  } catch {
    return undefined;
  }
}
