import { monitorEventLoopDelay } from 'node:perf_hooks';
import { AnswerFailed } from './client.ts';
import { type Quantiles, quantiles, sleep, startStream } from './scenarios.ts';
import { type SystemUnderTest, sluiceEnv, startSystem } from './system-under-test.ts';
import { startUpstream, type Upstream } from './upstream.ts';

/**
 * `npm run bench:overload`: sends questions at a fixed rate, whether or not they are admitted. The rates are
 * nine tenths of the capacity of one core, and twice the capacity. Measures the delays of admitted questions
 * and the time until the others are refused.
 */

const TOKENS = 400;
/** 25 tokens per second, a pace at which the load generator keeps up. It shares a core with the upstream. */
const GAP_MS = 40;
const ANSWER_S = (TOKENS * GAP_MS) / 1_000;

/** Questions at a fixed rate. */
interface ArrivalRate {
  readonly perSecond: number;
  readonly seconds: number;
  /** Seconds after which results count. Before, the core fills up. */
  readonly warmUpS: number;
}

interface Figures {
  readonly offered: number;
  readonly refused: number;
  /** Maximum number of concurrent answers. */
  readonly maxOpen: number;
  /** Share of one core, 0 to 1. */
  readonly cpu: number;
  readonly delayMs: Quantiles;
  readonly firstTokenMs: Quantiles;
  readonly refusalMs: Quantiles;
  /** Seconds from the last arrival until a question is admitted. */
  readonly recoveryS: number;
}

/** Sends questions at a rate and waits for all answers. @throws Error if an answer fails, except by overload */
async function sendAtRate(
  system: SystemUnderTest,
  upstream: Upstream,
  { perSecond, seconds, warmUpS }: ArrivalRate,
): Promise<Figures> {
  const delays: number[] = [];
  const firstTokens: number[] = [];
  const refusals: number[] = [];
  const answers: Promise<void>[] = [];
  let [open, maxOpen, refused] = [0, 0, 0];
  const ask = async (isCounted: boolean) => {
    const askedAt = performance.now();
    open += 1;
    maxOpen = Math.max(maxOpen, open);
    try {
      const { delaysMs, firstTokenMs } = await startStream(system, upstream, TOKENS, GAP_MS).done;
      if (!isCounted) return;
      firstTokens.push(firstTokenMs);
      for (let i = 0; i < delaysMs.length; i += 20) delays.push(delaysMs[i] as number);
    } catch (error) {
      if (!(error instanceof AnswerFailed) || error.code !== 'overloaded') throw error;
      refused += 1;
      if (isCounted) refusals.push(performance.now() - askedAt);
    } finally {
      open -= 1;
    }
  };
  const cpuBefore = system.cpuSeconds();
  const startedAt = performance.now();
  for (let i = 0; i < perSecond * seconds; i++) {
    const dueS = i / perSecond;
    const waitMs = startedAt + dueS * 1_000 - performance.now();
    if (waitMs > 1) await sleep(waitMs);
    answers.push(ask(dueS >= warmUpS));
  }
  const cpu = (system.cpuSeconds() - cpuBefore) / ((performance.now() - startedAt) / 1_000);
  const recoveryS = await measureRecoverySeconds(system, upstream);
  await Promise.all(answers);
  return {
    offered: answers.length,
    refused,
    maxOpen,
    cpu,
    delayMs: quantiles(delays),
    firstTokenMs: quantiles(firstTokens),
    refusalMs: quantiles(refusals),
    recoveryS,
  };
}

/** Asks short questions until one is admitted, and returns the seconds that this took. */
async function measureRecoverySeconds(system: SystemUnderTest, upstream: Upstream): Promise<number> {
  const startedAt = performance.now();
  for (;;) {
    try {
      await startStream(system, upstream, 1, GAP_MS).done;
      return (performance.now() - startedAt) / 1_000;
    } catch (error) {
      if (!(error instanceof AnswerFailed)) throw error;
      await sleep(100);
    }
  }
}

const upstream = await startUpstream();
const system = await startSystem('sluice', 'dist/server.js', { ...sluiceEnv(upstream.url), STREAM_GRACE_MS: '0' });

const printRow = (load: string, figures: Figures) => {
  const { offered, refused, maxOpen, cpu, delayMs, firstTokenMs, refusalMs, recoveryS } = figures;
  const pair = ({ p50, p99 }: Quantiles) => (Number.isNaN(p50) ? '' : `${p50.toFixed(0)} / ${p99.toFixed(0)}`);
  const cells = [load, offered, refused, maxOpen, `${(cpu * 100).toFixed(0)} %`];
  process.stdout.write(
    `| ${[...cells, ...[delayMs, firstTokenMs, refusalMs].map(pair), recoveryS.toFixed(1)].join(' | ')} |\n`,
  );
};

// Warm-up: compiles code and fills connection pools.
await sendAtRate(system, upstream, { perSecond: 20, seconds: 5, warmUpS: 0 });
// The capacity is the number of questions per second that are admitted under far too high a load.
const flood = await sendAtRate(system, upstream, { perSecond: 150, seconds: ANSWER_S, warmUpS: 0 });
const capacity = (flood.offered - flood.refused) / ANSWER_S;
process.stdout.write(`Node ${process.version}, answers of ${ANSWER_S} s with ${1_000 / GAP_MS} tokens per second\n\n`);
process.stdout.write('| load | offered | refused | most concurrent | CPU | delay per token p50 / p99 ms |');
process.stdout.write(
  ' first token ms | refusal ms | admits again after, s |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n',
);
const generatorDelay = monitorEventLoopDelay({ resolution: 1 });
generatorDelay.enable();
const duration = { seconds: 2 * ANSWER_S, warmUpS: ANSWER_S / 2 };
printRow('nine tenths', await sendAtRate(system, upstream, { perSecond: 0.9 * capacity, ...duration }));
printRow('twice', await sendAtRate(system, upstream, { perSecond: 2 * capacity, ...duration }));
const generatorP99Ms = generatorDelay.percentile(99) / 1e6;
process.stdout.write(`\nAll delays include those of the load generator itself: p99 ${generatorP99Ms.toFixed(0)} ms\n`);
await system.stop();
upstream.close();
