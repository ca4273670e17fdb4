import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { questionText } from './question.ts';
import { markdown, plot, type Results } from './report.ts';
import {
  type Figures,
  LOADS,
  measureCancellation,
  measureStoppedReaders,
  runLoad,
  STREAM_COUNTS,
} from './scenarios.ts';
import { type SystemUnderTest, sluiceEnv, startSystem } from './system-under-test.ts';
import { startUpstream, type Upstream } from './upstream.ts';

/** `npm run bench`: compares Sluice with a byte proxy in Node. Each load runs against one system at a time. */

const startedAt = performance.now();
const logProgress = (step: string) =>
  process.stderr.write(`${((performance.now() - startedAt) / 1_000).toFixed(0)} s  ${step}\n`);

const upstream = await startUpstream();

const SYSTEMS: Readonly<Record<string, () => Promise<SystemUnderTest>>> = {
  proxy: () => startSystem('proxy', 'dist/bench/proxy.js', { UPSTREAM: upstream.url }),
  sluice: () => startSystem('sluice', 'dist/server.js', { ...sluiceEnv(upstream.url), STREAM_GRACE_MS: '0' }),
};

/** Runs a measurement on a new process, so that memory of earlier measurements does not count. */
async function withSystem<T>(
  name: string,
  measure: (system: SystemUnderTest, upstream: Upstream) => Promise<T>,
): Promise<T> {
  const system = await (SYSTEMS[name] as () => Promise<SystemUnderTest>)();
  try {
    // Warm-up: compiles code and fills connection pools.
    await runLoad(system, upstream, { streams: 32, tokens: 100, gapMs: 2, rampMs: 0 });
    return await measure(system, upstream);
  } finally {
    await system.stop();
  }
}

/**
 * Measures whole short answers per second. autocannon cannot see inside a stream.
 * @throws Error if a request fails
 */
async function measureRequestsPerSecond(system: SystemUnderTest): Promise<number> {
  const url = `${system.url}/ask/stream?question=${encodeURIComponent(questionText({ id: 'short', tokens: 20, gapMs: 0 }))}`;
  const args = ['node_modules/autocannon/autocannon.js', '-j', '-c', '50', '-d', '5', url];
  const autocannon = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  let json = '';
  autocannon.stdout.on('data', (chunk) => {
    json += chunk;
  });
  await once(autocannon, 'close');
  const { requests, errors, non2xx } = JSON.parse(json) as {
    requests: { average: number };
    errors: number;
    non2xx: number;
  };
  if (errors + non2xx > 0) throw new Error(`${system.name}: ${errors} errors, ${non2xx} responses without status 2xx`);
  return requests.average;
}

const loads: Record<string, Record<string, Figures>> = {};
const requestsPerSecond: Record<string, number> = {};
const heldKb: Record<string, number> = {};

for (const name of Object.keys(SYSTEMS)) {
  for (const [scenario, load] of Object.entries(LOADS)) {
    logProgress(`${scenario}, ${name}`);
    loads[scenario] ??= {};
    (loads[scenario] as Record<string, Figures>)[name] = await withSystem(name, (system) =>
      runLoad(system, upstream, load),
    );
  }
  logProgress(`short answers, ${name}`);
  requestsPerSecond[name] = await withSystem(name, measureRequestsPerSecond);
  logProgress(`readers that stop reading, ${name}`);
  heldKb[name] = await withSystem(name, (system) => measureStoppedReaders(system, upstream, 20, 3_000));
}
logProgress('readers that disconnect');
const cancelMs = await withSystem('sluice', (system) => measureCancellation(system, upstream, 100));

const growth: Figures[] = [];
for (const streams of STREAM_COUNTS) {
  logProgress(`${streams} open streams`);
  const load = { streams, tokens: 5, gapMs: 1_000, rampMs: Math.min(4_000, streams * 2) };
  growth.push(await withSystem('sluice', (system) => runLoad(system, upstream, load)));
}
upstream.close();

const [cpu] = cpus();
const results: Results = {
  date: new Date().toISOString().slice(0, 10),
  node: process.version,
  cores: cpus().length,
  cpu: cpu?.model.trim() ?? 'unknown',
  loads,
  requestsPerSecond,
  cancelMs,
  heldKb,
  growth,
};
writeFileSync('bench/results.json', `${JSON.stringify(results, null, 2)}\n`);
writeFileSync('docs/images/growth.svg', plot(growth));
process.stdout.write(`${markdown(results)}\n`);
logProgress('done');
