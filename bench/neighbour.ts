import { type ChildProcess, fork } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { openStream } from './client.ts';
import { quantiles, sleep } from './scenarios.ts';
import { startSystem } from './system-under-test.ts';
import { startUpstream } from './upstream.ts';

/**
 * `npm run bench:neighbour [-- <seconds> [<kind>]]`: one key asks at a modest pace, first alone, then while another key
 * sends the most expensive requests that it may send. The first token must not come much later, and no question may be
 * refused. Exits 1 if it does or is. `kind` sends only one kind of the requests of `noise.ts`.
 */

const [, , seconds = '30', kind] = process.argv;
if (!(Number(seconds) > 0)) {
  process.stderr.write('usage: npm run bench:neighbour [-- <seconds> [<kind>]]\n');
  process.exit(2);
}

/** Questions per second of the quiet key. */
const PER_SECOND = 10;
const TOKENS = 20;
const GAP_MS = 20;
/** The bound of the 99th percentile of the time to the first token: a multiple of that without a neighbour. */
const MAX_FACTOR = 2;
const MAX_EXTRA_MS = 100;

const quietKey = randomBytes(16).toString('hex');
const noisyKey = randomBytes(16).toString('hex');

/** A key as docs/security.md recommends it. The quiet key may ask as often as it does here, also on a slow machine. */
const keyOf = (name: string, key: string, requestsPerMinute: number) => ({
  name,
  sha256: createHash('sha256').update(key).digest('hex'),
  models: [name],
  requestsPerMinute,
  tokensPerMinute: 100_000,
  maxConcurrent: 10,
});

interface Phase {
  readonly firstTokenMs: { readonly p50: number; readonly p99: number };
  readonly delayMs: { readonly p50: number; readonly p99: number };
  readonly questions: number;
  /** Messages of questions that failed or were refused. */
  readonly failures: readonly string[];
  /** Share of one core that the service used, 0 to 1. */
  readonly cpu: number;
}

const upstream = await startUpstream();
const noise: ChildProcess = fork(new URL('noise.js', import.meta.url));
const [{ port: noisyPort }] = (await once(noise, 'message')) as [{ port: number }];

const directory = mkdtempSync(join(tmpdir(), 'sluice-neighbour-'));
const configFile = join(directory, 'sluice.json');
const provider = (baseUrl: string) => ({ type: 'openai-compatible', baseUrl, apiKeys: ['bench'] });
const model = (name: string) => ({ name, targets: [{ provider: name, model: 'bench' }] });
writeFileSync(
  configFile,
  JSON.stringify({
    providers: { quiet: provider(`${upstream.url}/v1`), noisy: provider(`http://127.0.0.1:${noisyPort}/v1`) },
    models: [model('quiet'), model('noisy')],
    keys: [
      { ...keyOf('quiet', quietKey, 6_000), tokensPerMinute: 100_000_000, maxConcurrent: 100 },
      keyOf('noisy', noisyKey, 60),
    ],
  }),
);
const env = { NODE_ENV: 'production', LOG_LEVEL: 'fatal', DEFAULT_MODEL: 'quiet', CONFIG_FILE: configFile };
const system = await startSystem('sluice', 'dist/server.js', env);

let lastId = 0;

/** Asks at the pace of the quiet key, and waits for all answers. */
async function runPhase(durationS: number): Promise<Phase> {
  const firstTokens: number[] = [];
  const delays: number[] = [];
  const failures: string[] = [];
  const answers: Promise<void>[] = [];
  const ask = async () => {
    const id = `q${++lastId}`;
    const sentAt = new Float64Array(TOKENS);
    upstream.sentAt.set(id, sentAt);
    try {
      const headers = { authorization: `Bearer ${quietKey}` };
      const question = { id, tokens: TOKENS, gapMs: GAP_MS };
      const timings = await openStream(system.url, question, sentAt, { headers }).done;
      firstTokens.push(timings.firstTokenMs);
      delays.push(...timings.delaysMs);
    } catch (error) {
      failures.push((error as Error).message);
    } finally {
      upstream.sentAt.delete(id);
    }
  };
  const cpuBefore = system.cpuSeconds();
  const startedAt = performance.now();
  for (let i = 0; i < durationS * PER_SECOND; i++) {
    const waitMs = startedAt + (i * 1_000) / PER_SECOND - performance.now();
    if (waitMs > 1) await sleep(waitMs);
    answers.push(ask());
  }
  const cpu = (system.cpuSeconds() - cpuBefore) / ((performance.now() - startedAt) / 1_000);
  await Promise.all(answers);
  return {
    firstTokenMs: quantiles(firstTokens),
    delayMs: quantiles(delays),
    questions: answers.length,
    failures,
    cpu,
  };
}

const print = (cells: readonly (string | number)[]) => process.stdout.write(`| ${cells.join(' | ')} |\n`);
const printPhase = (name: string, { firstTokenMs, delayMs, questions, failures, cpu }: Phase) => {
  const pair = ({ p50, p99 }: { p50: number; p99: number }) => `${p50.toFixed(1)} / ${p99.toFixed(1)}`;
  print([name, questions, failures.length, pair(firstTokenMs), pair(delayMs), `${(cpu * 100).toFixed(0)} %`]);
};

process.stdout.write(
  `Node ${process.version}, ${availableParallelism()} cores, ${seconds} s, ${kind ?? 'all kinds'}\n\n`,
);
print(['phase', 'questions', 'failed', 'first token p50 / p99 ms', 'delay per token p50 / p99 ms', 'one core busy']);
print(['---', '---:', '---:', '---:', '---:', '---:']);
await runPhase(Math.min(5, Number(seconds))); // Warm-up: compiles code and fills connection pools.
const quiet = await runPhase(Number(seconds));
printPhase('alone', quiet);
noise.send({ url: system.url, key: noisyKey, seconds: Number(seconds) + 1, only: kind });
await sleep(1_000); // The noise begins.
const [noisy, [responses]] = await Promise.all([
  runPhase(Number(seconds)),
  once(noise, 'message') as Promise<[Record<string, number>]>,
]);
printPhase('with the neighbour', noisy);
process.stdout.write(`\nResponses to the neighbour: ${JSON.stringify(responses)}\n`);
process.stdout.write(`Memory of the service: ${(system.rssBytes() / 1024 / 1024).toFixed(0)} MB\n`);

const boundMs = MAX_FACTOR * quiet.firstTokenMs.p99 + MAX_EXTRA_MS;
const faults = [
  ...[...quiet.failures, ...noisy.failures].slice(0, 5),
  ...(noisy.firstTokenMs.p99 <= boundMs ? [] : [`the first token came late: p99 over ${boundMs.toFixed(0)} ms`]),
];
for (const fault of faults) process.stdout.write(`FAULT: ${fault}\n`);
if (faults.length === 0) process.stdout.write('No fault.\n');
noise.disconnect();
await system.stop();
upstream.close();
rmSync(directory, { recursive: true });
process.exitCode = faults.length === 0 ? 0 : 1;
