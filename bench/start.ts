import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { median } from './report.ts';
import { startSystem } from './system-under-test.ts';

/**
 * `npm run bench:start`: measures the start of the service and the memory of an idle one, in turn: the compiled files,
 * the bundle, and the bundle with compiled code as the image has it. Prints medians.
 */

const RUNS = 9;
/** Time after the start at which memory is read. */
const IDLE_MS = 2_000;

interface Start {
  readonly readyMs: number;
  readonly cpuMs: number;
  readonly rssMb: number;
}

const cache = mkdtempSync(join(tmpdir(), 'sluice-start-'));
const env = { NODE_ENV: 'production', DEMO: 'true', HOST: '127.0.0.1', MALLOC_ARENA_MAX: '1' };
const VARIANTS: Readonly<Record<string, { file: string; env: Record<string, string> }>> = {
  'compiled files': { file: 'dist/server.js', env },
  bundle: { file: 'dist/bundle/server.js', env },
  'bundle with compiled code': { file: 'dist/bundle/server.js', env: { ...env, NODE_COMPILE_CACHE: cache } },
};

async function measure(name: string, { file, env }: (typeof VARIANTS)[string]): Promise<Start> {
  const startedAt = performance.now();
  const system = await startSystem(name, file, env);
  const readyMs = performance.now() - startedAt;
  const cpuMs = system.cpuSeconds() * 1_000;
  await sleep(IDLE_MS);
  const rssMb = system.rssBytes() / 1e6;
  await system.stop();
  return { readyMs, cpuMs, rssMb };
}

const found = new Map<string, Start[]>(Object.keys(VARIANTS).map((name) => [name, []]));
try {
  // The first round fills the caches.
  for (let run = 0; run <= RUNS; run++) {
    for (const [name, variant] of Object.entries(VARIANTS)) {
      const start = await measure(name, variant);
      if (run > 0) found.get(name)?.push(start);
    }
  }
} finally {
  rmSync(cache, { recursive: true, force: true });
}
console.log(`Node ${process.version}, medians of ${RUNS}\n`);
console.log('| | ready after, ms | CPU until then, ms | idle, MB |\n|---|---:|---:|---:|');
for (const [name, starts] of found) {
  const keys = ['readyMs', 'cpuMs', 'rssMb'] as const;
  const cells = keys.map((key) => median(starts.map((start) => start[key])).toFixed(0));
  console.log(`| ${[name, ...cells].join(' | ')} |`);
}
