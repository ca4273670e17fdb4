import { randomBytes } from 'node:crypto';
import Fastify from 'fastify';
import type { Test } from 'tap';
import clockPlugin, { systemClock } from '../../plugins/clock.ts';
import { loadConfig } from '../../plugins/config/load.ts';
import metricsPlugin from '../../plugins/metrics/index.ts';
import redisPlugin, { type Cluster } from '../../plugins/redis/index.ts';
import { RedisStore, type RedisStoreOptions } from '../../plugins/streams/redis/store.ts';
import { until } from '../helper.ts';
import type { RedisServer } from '../redis.ts';

export interface Replica {
  readonly store: RedisStore;
  readonly cluster: Cluster;
  /** Closes the connections without any message, as `kill -9` does. */
  die(): void;
}

/** Creates the Redis store of one replica, without the rest of the service. */
export async function redisStore(
  t: Test,
  redis: Pick<RedisServer, 'url'>,
  settings: Partial<RedisStoreOptions> = {},
  prefix = randomBytes(4).toString('hex'),
): Promise<Replica> {
  const app = Fastify();
  const config = loadConfig({ REDIS_URL: redis.url, REDIS_PREFIX: prefix });
  await app.register(clockPlugin);
  await app.register(metricsPlugin, { hasRedis: true });
  await app.register(redisPlugin, { redis: config.redis });
  await app.ready();
  t.teardown(() => app.close());
  const cluster = app.cluster as Cluster;
  await until(() => cluster.connection.isAvailable, 'Redis is connected');
  const store = new RedisStore({
    ...config.streams,
    clock: systemClock,
    maxLogMs: () => 600_000,
    metrics: app.metrics,
    onEvicted() {},
    ...settings,
    cluster,
  });
  t.teardown(() => store.close());
  return {
    store,
    cluster,
    die() {
      cluster.connection.close();
      cluster.mailbox.close();
    },
  };
}
