import type { Test } from 'tap';
import { until } from '../helper.ts';
import { startRedis } from '../redis.ts';
import { type BareLimits, bareLimits } from './bare-limits.ts';

/** Starts the limits of two replicas with one Redis. */
export async function startReplicas(
  t: Test,
  { expectedReplicas = 2, redisArgs = [] }: { expectedReplicas?: number; redisArgs?: string[] } = {},
) {
  const redis = await startRedis(t, ...redisArgs);
  const options = { redis: { url: redis.url, prefix: 'p' }, expectedReplicas };
  const [a, b] = await Promise.all([bareLimits(t, options), bareLimits(t, options)]);
  const isAvailable = ({ app }: BareLimits) => app.cluster?.connection.isAvailable === true;
  await until(() => isAvailable(a) && isAvailable(b), 'both replicas are connected to Redis');
  /** Waits until Redis has what the replicas have sent. */
  const settled = async () => {
    for (const { app } of [a, b]) await app.cluster?.connection.run((client) => client.ping());
  };
  const stopRedis = async () => {
    await redis.stop();
    await until(() => !isAvailable(a) && !isAvailable(b), 'Redis is unavailable');
  };
  /** Starts Redis again, and waits until the replicas have sent what it has missed. */
  const startRedisAgain = async () => {
    await redis.start();
    await until(() => isAvailable(a) && isAvailable(b), 'Redis is available again');
    const renewed = [a, b].map(({ app }) => new Promise<void>((done) => app.cluster?.lease.onRenewed(done)));
    await Promise.all(renewed);
    await settled();
  };
  const used = async (owner: string) => Number(await redis.client.hget(`p:limit:tokens:${owner}`, 'used'));
  /** Returns what the answers of an owner cost in the current day, in billionths of a USD. */
  const cost = async (owner: string) => {
    const day = new Date().toISOString().slice(0, 10);
    const sums = await redis.client.hmget(`p:limit:budget:${day}:${owner}`, 'ended', 'running');
    return Number(sums[0]) + Number(sums[1]);
  };
  return { redis, a, b, settled, isAvailable, stopRedis, startRedisAgain, used, cost };
}
