import { Redis } from 'ioredis';
import { findFaults, runSoak, type Sample } from './soak-run.ts';
import { sluiceEnv, startSystem } from './system-under-test.ts';
import { startUpstream } from './upstream.ts';

/**
 * `npm run bench:soak [-- <minutes> [<streams>]]`: holds 100 streams open for 30 minutes. A fifth of the readers leave,
 * and the provider cuts a twentieth of the answers. Checks the text of every answer, the heap and the descriptors, and
 * that nothing is left at the end. Uses the Redis of `REDIS_URL`, if set. Exits 1 if there is a fault.
 */

const [, , minutes = '30', streams = '100'] = process.argv;
const durationMs = Number(minutes) * 60_000;
if (!(durationMs > 0) || !(Number(streams) >= 1)) {
  process.stderr.write('usage: npm run bench:soak [-- <minutes> [<streams>]]\n');
  process.exit(2);
}

/** Time for which ended answers stay readable. Short, so that memory holds running answers only. */
const TTL_MS = 5_000;
const PREFIX = 'sluice-soak';
const { REDIS_URL } = process.env;

const upstream = await startUpstream();
const redis = REDIS_URL ? new Redis(REDIS_URL) : undefined;
const system = await startSystem(
  'sluice',
  'dist/server.js',
  {
    ...sluiceEnv(upstream.url),
    ...(REDIS_URL && { REDIS_URL, REDIS_PREFIX: PREFIX }),
    STREAM_GRACE_MS: '500',
    STREAM_TTL_MS: String(TTL_MS),
    // A busy machine delays the event loop; the service would refuse questions as overloaded.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    DRAIN_MS: '0',
    DRAIN_HANDOVER_MS: '0',
  },
  true,
);

const print = (cells: readonly (string | number)[]) => process.stdout.write(`| ${cells.join(' | ')} |\n`);
const megabytes = (bytes: number) => (bytes / 1024 / 1024).toFixed(1);
const printSample = ({ atMs, questions, heapBytes, rssBytes, descriptors }: Sample) =>
  print([(atMs / 60_000).toFixed(1), questions, megabytes(heapBytes), megabytes(rssBytes), descriptors]);

process.stdout.write(`Node ${process.version}, ${streams} streams, ${REDIS_URL ? 'with' : 'without'} Redis\n\n`);
print(['minute', 'questions', 'heap after GC, MB', 'RSS, MB', 'descriptors']);
print(['---:', '---:', '---:', '---:', '---:']);
const result = await runSoak(system, upstream, {
  streams: Number(streams),
  durationMs,
  sampleMs: Math.max(1_000, durationMs / 60),
  settleMs: 60_000,
  countKeys: redis && (async () => (await redis.keys(`${PREFIX}:*`)).length),
  onSample: printSample,
});
const { questions, complete, left, cut, wrongCount, before, after } = result;
process.stdout.write(`\n${questions} questions: ${complete} complete, ${left} left by their readers, `);
process.stdout.write(`${cut} cut by the provider, ${wrongCount} wrong\n`);
process.stdout.write(`At rest before: ${JSON.stringify(before)}\nAt rest after: ${JSON.stringify(after)}\n`);
const heapAtRest = await system.heapBytes();
process.stdout.write(`Heap at rest: ${megabytes(heapAtRest)} MB, RSS ${megabytes(system.rssBytes())} MB\n`);
const faults = findFaults(result);
for (const fault of faults) process.stdout.write(`FAULT: ${fault}\n`);
if (faults.length === 0) process.stdout.write('No fault.\n');
await system.stop();
upstream.close();
redis?.disconnect();
process.exitCode = faults.length === 0 ? 0 : 1;
