import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import { bellaAt, serve, until } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { type RedisServer, startRedis } from './redis.ts';
import { open, type Reading } from './sse-client.ts';
import { type Script, startUpstream, type Upstream } from './upstream.ts';

/** Two replicas in this process that share a Redis and ask one upstream. */
export interface Replicas {
  readonly redis: RedisServer;
  readonly upstream: Upstream;
  readonly a: { app: FastifyInstance; url: string };
  readonly b: { app: FastifyInstance; url: string };
}

/**
 * Opens a stream at a replica as an EventSource does: again, if the replica cannot read the stream now. On a busy
 * machine Redis may count as unavailable for a moment. Resolves when the replica reads the stream.
 */
export async function openStream(
  { app, url }: Replicas['a'],
  path: string,
  headers: Record<string, string> = {},
): Promise<Reading> {
  const readers = () => metricValue(app, 'sluice_readers');
  for (let tries = 1; ; tries += 1) {
    const before = await readers();
    const reading = await open(`${url}${path}`, { headers });
    let isOver = false;
    void reading.ended.then(() => {
      isOver = true;
    });
    await until(async () => isOver || (await readers()) > before, 'the replica reads the stream, or refuses');
    if (!isOver || reading.events.length > 0) return reading;
    if (tries === 10) throw new Error(`${path} is not read: status ${reading.response.statusCode}`);
    await until(() => app.cluster?.connection.isAvailable === true, 'the replica is connected to Redis');
  }
}

/** Starts two replicas whose upstream runs this script. */
export async function startReplicas(
  t: Test,
  script: Script,
  env: Record<string, string> = {},
  start: (t: Test) => Promise<RedisServer> = startRedis,
): Promise<Replicas> {
  const redis = await start(t);
  const upstream = await startUpstream(t, script);
  const options = { env: bellaAt(upstream.url, { REDIS_URL: redis.url, ...env }) };
  const [a, b] = await Promise.all([serve(t, options), serve(t, options)]);
  await until(
    () => [a, b].every(({ app }) => app.cluster?.connection.isAvailable === true),
    'both replicas are connected to Redis',
  );
  return { redis, upstream, a, b };
}
