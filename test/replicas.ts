import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import { bellaAt, serve, until } from './helper.ts';
import { type RedisServer, startRedis } from './redis.ts';
import { type Script, startUpstream, type Upstream } from './upstream.ts';

/** Two replicas in this process that share a Redis and ask one upstream. */
export interface Replicas {
  readonly redis: RedisServer;
  readonly upstream: Upstream;
  readonly a: { app: FastifyInstance; url: string };
  readonly b: { app: FastifyInstance; url: string };
}

/** Starts two replicas whose upstream runs this script. */
export async function startReplicas(t: Test, script: Script, env: Record<string, string> = {}): Promise<Replicas> {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, script);
  const options = { env: bellaAt(upstream.url, { REDIS_URL: redis.url, ...env }) };
  const [a, b] = await Promise.all([serve(t, options), serve(t, options)]);
  await until(
    () => [a, b].every(({ app }) => app.cluster?.connection.isAvailable === true),
    'both replicas are connected to Redis',
  );
  return { redis, upstream, a, b };
}
