import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { textOf } from './question.ts';
import { markdown, plot, type Results } from './report.ts';
import { cancel, type Figures, GROWTH, held, LOADS, run } from './scenarios.ts';
import { type Side, sluiceEnv, startSide } from './side.ts';
import { startUpstream, type Upstream } from './upstream.ts';

/** `npm run bench`: the service against a byte proxy in Node, in turn, under the same loads. */

const progress = (what: string) =>
  process.stderr.write(`${((performance.now() - begun) / 1_000).toFixed(0)} s  ${what}\n`);
const begun = performance.now();

const upstream = await startUpstream();

const SIDES: Readonly<Record<string, () => Promise<Side>>> = {
  proxy: () => startSide('proxy', 'dist/bench/proxy.js', { UPSTREAM: upstream.url }),
  sluice: () => startSide('sluice', 'dist/server.js', { ...sluiceEnv(upstream.url), STREAM_GRACE_MS: '0' }),
};

/** Each figure on a process of its own, so that none pays for another's memory. */
async function withSide<T>(name: string, measure: (side: Side, upstream: Upstream) => Promise<T>): Promise<T> {
  const side = await (SIDES[name] as () => Promise<Side>)();
  try {
    await run(side, upstream, { streams: 32, tokens: 100, gapMs: 2, rampMs: 0 }); // compiled code, pools
    return await measure(side, upstream);
  } finally {
    await side.stop();
  }
}

/** Whole short answers a second, which is what autocannon sees of a stream. */
async function requestsPerSecond(side: Side): Promise<number> {
  const url = `${side.url}/ask/stream?question=${encodeURIComponent(textOf({ id: 'short', tokens: 20, gapMs: 0 }))}`;
  const cli = spawn(process.execPath, ['node_modules/autocannon/autocannon.js', '-j', '-c', '50', '-d', '5', url], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let json = '';
  cli.stdout.on('data', (chunk) => {
    json += chunk;
  });
  await once(cli, 'close');
  const { requests, errors, non2xx } = JSON.parse(json) as {
    requests: { average: number };
    errors: number;
    non2xx: number;
  };
  if (errors + non2xx > 0) throw new Error(`${side.name}: ${errors} errors, ${non2xx} refusals`);
  return requests.average;
}

const loads: Record<string, Record<string, Figures>> = {};
const rates: Record<string, number> = {};
const heldKb: Record<string, number> = {};

for (const name of Object.keys(SIDES)) {
  for (const [scenario, load] of Object.entries(LOADS)) {
    progress(`${scenario}, ${name}`);
    loads[scenario] ??= {};
    (loads[scenario] as Record<string, Figures>)[name] = await withSide(name, (side) => run(side, upstream, load));
  }
  progress(`short answers, ${name}`);
  rates[name] = await withSide(name, requestsPerSecond);
  progress(`stopped readers, ${name}`);
  heldKb[name] = await withSide(name, (side) => held(side, upstream, 20, 3_000));
}
progress('readers that leave');
const cancelMs = await withSide('sluice', (side) => cancel(side, upstream, 100));

const growth: Figures[] = [];
for (const streams of GROWTH) {
  progress(`${streams} open streams`);
  const load = { streams, tokens: 5, gapMs: 1_000, rampMs: Math.min(4_000, streams * 2) };
  growth.push(await withSide('sluice', (side) => run(side, upstream, load)));
}
upstream.close();

const [cpu] = cpus();
const results: Results = {
  date: new Date().toISOString().slice(0, 10),
  node: process.version,
  cores: cpus().length,
  cpu: cpu?.model.trim() ?? 'unknown',
  loads,
  requestsPerSecond: rates,
  cancelMs,
  heldKb,
  growth,
};
writeFileSync('bench/results.json', `${JSON.stringify(results, null, 2)}\n`);
writeFileSync('docs/images/growth.svg', plot(growth));
process.stdout.write(`${markdown(results)}\n`);
progress('done');
