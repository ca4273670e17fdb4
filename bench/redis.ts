import { spawn } from 'node:child_process';
import { Redis } from 'ioredis';
import { type Figures, type Load, run } from './scenarios.ts';
import { type Side, sluiceEnv, startSide } from './side.ts';
import { startUpstream, type Upstream } from './upstream.ts';

/** `npm run bench:redis`: what Redis costs; the service with it and without, in turn. Needs a `redis-server`. */

const PORT = 6_399;
const LOADS: Readonly<Record<string, Load>> = {
  paced: { streams: 200, tokens: 200, gapMs: 20, rampMs: 1_000 },
  fast: { streams: 40, tokens: 1_500, gapMs: 2, rampMs: 200 },
};

const own = ['--port', String(PORT), '--save', '', '--appendonly', 'no', '--bind', '127.0.0.1'];
const server = spawn('redis-server', own, { stdio: 'ignore' });
const redis = new Redis(PORT, '127.0.0.1', { maxRetriesPerRequest: null });
redis.on('error', () => {});
while (redis.status !== 'ready') await new Promise((resolve) => setTimeout(resolve, 50));
const upstream = await startUpstream();

const env = sluiceEnv(upstream.url);
const start = (name: string) =>
  startSide(name, 'dist/server.js', name === 'redis' ? { ...env, REDIS_URL: `redis://127.0.0.1:${PORT}` } : env);

async function info(section: string, name: string): Promise<number> {
  return Number(new RegExp(`${name}:([0-9.]+)`).exec(await redis.info(section))?.[1]);
}

interface RedisFigures {
  readonly redisCommands: number;
  readonly redisBytes: number;
  readonly redisCpuMicros: number;
  readonly redisKbPerStream: number;
}

const usage = async () => ({
  commands: await info('stats', 'total_commands_processed'),
  bytesIn: await info('stats', 'total_net_input_bytes'),
  cpu: (await info('cpu', 'used_cpu_sys')) + (await info('cpu', 'used_cpu_user')),
  memory: await info('memory', 'used_memory'),
});

async function measure(side: Side, of: Upstream, load: Load): Promise<Figures & RedisFigures> {
  await run(side, of, { streams: 32, tokens: 100, gapMs: 2, rampMs: 0 });
  await redis.flushall();
  const before = await usage();
  const figures = await run(side, of, load);
  const after = await usage();
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
  for (const kind of ['memory', 'redis']) {
    const side = await start(kind);
    const figures = await measure(side, upstream, load);
    await side.stop();
    const { cpuMicrosPerToken, tokensPerSecond, firstTokenMs, delayMs } = figures;
    const shown = {
      tokensPerSecond: Math.round(tokensPerSecond),
      cpuMicrosPerToken: cpuMicrosPerToken.toFixed(1),
      firstTokenMs,
      delayMs,
      ...Object.fromEntries(Object.entries(figures).filter(([key]) => key.startsWith('redis'))),
    };
    process.stdout.write(`${name} ${kind} ${JSON.stringify(shown)}\n`);
  }
}
upstream.close();
redis.disconnect();
server.kill();
