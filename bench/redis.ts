import { spawn } from 'node:child_process';
import { Redis } from 'ioredis';
import { type Figures, type Load, runLoad } from './scenarios.ts';
import { type SystemUnderTest, sluiceEnv, startSystem } from './system-under-test.ts';
import { startUpstream, type Upstream } from './upstream.ts';

/**
 * `npm run bench:redis`: measures the cost of Redis. Runs each load without Redis and then with it. Requires
 * `redis-server` in `PATH`.
 */

const PORT = 6_399;
const LOADS: Readonly<Record<string, Load>> = {
  paced: { streams: 200, tokens: 200, gapMs: 20, rampMs: 1_000 },
  fast: { streams: 40, tokens: 1_500, gapMs: 2, rampMs: 200 },
};

const serverArgs = ['--port', String(PORT), '--save', '', '--appendonly', 'no', '--bind', '127.0.0.1'];
const server = spawn('redis-server', serverArgs, { stdio: 'ignore' });
const redis = new Redis(PORT, '127.0.0.1', { maxRetriesPerRequest: null });
redis.on('error', () => {});
while (redis.status !== 'ready') await new Promise((resolve) => setTimeout(resolve, 50));
const upstream = await startUpstream();

const env = sluiceEnv(upstream.url);
const startSluice = (name: string) =>
  startSystem(name, 'dist/server.js', name === 'redis' ? { ...env, REDIS_URL: `redis://127.0.0.1:${PORT}` } : env);

/** Returns a number from the output of `INFO`. */
async function readInfo(section: string, name: string): Promise<number> {
  return Number(new RegExp(`${name}:([0-9.]+)`).exec(await redis.info(section))?.[1]);
}

/** Redis usage per token; memory per stream. */
interface RedisFigures {
  readonly redisCommands: number;
  readonly redisBytes: number;
  readonly redisCpuMicros: number;
  readonly redisKbPerStream: number;
}

const readUsage = async () => ({
  commands: await readInfo('stats', 'total_commands_processed'),
  bytesIn: await readInfo('stats', 'total_net_input_bytes'),
  cpu: (await readInfo('cpu', 'used_cpu_sys')) + (await readInfo('cpu', 'used_cpu_user')),
  memory: await readInfo('memory', 'used_memory'),
});

/** Runs a load after a warm-up. */
async function measure(system: SystemUnderTest, modelUpstream: Upstream, load: Load): Promise<Figures & RedisFigures> {
  await runLoad(system, modelUpstream, { streams: 32, tokens: 100, gapMs: 2, rampMs: 0 });
  await redis.flushall();
  const before = await readUsage();
  const figures = await runLoad(system, modelUpstream, load);
  const after = await readUsage();
  const tokens = load.streams * load.tokens;
  return {
    ...figures,
    redisCommands: (after.commands - before.commands) / tokens,
    redisBytes: (after.bytesIn - before.bytesIn) / tokens,
    redisCpuMicros: ((after.cpu - before.cpu) * 1e6) / tokens,
    redisKbPerStream: (after.memory - before.memory) / load.streams / 1_024,
  };
}

process.stdout.write(`Node ${process.version}\n`);
for (const [name, load] of Object.entries(LOADS)) {
  for (const store of ['memory', 'redis']) {
    const system = await startSluice(store);
    const figures = await measure(system, upstream, load);
    await system.stop();
    const { refused, cpuMicrosPerToken, tokensPerSecond, firstTokenMs, delayMs } = figures;
    const summary = {
      refused,
      tokensPerSecond: Math.round(tokensPerSecond),
      cpuMicrosPerToken: cpuMicrosPerToken.toFixed(1),
      firstTokenMs,
      delayMs,
      ...Object.fromEntries(Object.entries(figures).filter(([key]) => key.startsWith('redis'))),
    };
    process.stdout.write(`${name} ${store} ${JSON.stringify(summary)}\n`);
  }
}
upstream.close();
redis.disconnect();
server.kill();
