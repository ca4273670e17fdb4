import { monitorEventLoopDelay } from 'node:perf_hooks';
import { AnswerFailed } from './client.ts';
import { type Quantiles, quantiles, sleep, start } from './scenarios.ts';
import { type Side, sluiceEnv, startSide } from './side.ts';
import { startUpstream, type Upstream } from './upstream.ts';

/**
 * `npm run bench:overload`: questions that arrive whether or not there is room for them, at what one
 * core carries and at twice that. What those who are let in get, and how soon the others are told.
 */

const TOKENS = 400;
/** 25 tokens a second: what the load generator, which shares a core with the upstream, keeps up with. */
const GAP_MS = 40;
const ANSWER_S = (TOKENS * GAP_MS) / 1_000;

interface Load {
  readonly perSecond: number;
  readonly seconds: number;
  /** What comes before is not counted: the core fills first. */
  readonly countedFrom: number;
}

interface Figures {
  readonly offered: number;
  readonly refused: number;
  /** Most answers that ran at once. */
  readonly open: number;
  readonly cpu: number;
  readonly delayMs: Quantiles;
  readonly firstTokenMs: Quantiles;
  readonly refusalMs: Quantiles;
  /** From the last arrival until one is let in, in seconds. */
  readonly recoveryS: number;
}

async function arrive(side: Side, upstream: Upstream, { perSecond, seconds, countedFrom }: Load): Promise<Figures> {
  const delays: number[] = [];
  const firstTokens: number[] = [];
  const refusals: number[] = [];
  const asked: Promise<void>[] = [];
  let [open, most, refused] = [0, 0, 0];
  const ask = async (counts: boolean) => {
    const begun = performance.now();
    open += 1;
    most = Math.max(most, open);
    try {
      const { delaysMs, firstTokenMs } = await start(side, upstream, TOKENS, GAP_MS).done;
      if (!counts) return;
      firstTokens.push(firstTokenMs);
      for (let i = 0; i < delaysMs.length; i += 20) delays.push(delaysMs[i] as number);
    } catch (error) {
      if (!(error instanceof AnswerFailed) || error.code !== 'overloaded') throw error;
      refused += 1;
      if (counts) refusals.push(performance.now() - begun);
    } finally {
      open -= 1;
    }
  };
  const cpuBefore = side.cpuSeconds();
  const begun = performance.now();
  for (let i = 0; i < perSecond * seconds; i++) {
    const due = i / perSecond;
    const wait = begun + due * 1_000 - performance.now();
    if (wait > 1) await sleep(wait);
    asked.push(ask(due >= countedFrom));
  }
  const cpu = (side.cpuSeconds() - cpuBefore) / ((performance.now() - begun) / 1_000);
  const recoveryS = await recovery(side, upstream);
  await Promise.all(asked);
  return {
    offered: asked.length,
    refused,
    open: most,
    cpu,
    delayMs: quantiles(delays),
    firstTokenMs: quantiles(firstTokens),
    refusalMs: quantiles(refusals),
    recoveryS,
  };
}

async function recovery(side: Side, upstream: Upstream): Promise<number> {
  const begun = performance.now();
  for (;;) {
    try {
      await start(side, upstream, 1, GAP_MS).done;
      return (performance.now() - begun) / 1_000;
    } catch (error) {
      if (!(error instanceof AnswerFailed)) throw error;
      await sleep(100);
    }
  }
}

const upstream = await startUpstream();
const side = await startSide('sluice', 'dist/server.js', { ...sluiceEnv(upstream.url), STREAM_GRACE_MS: '0' });

const line = (name: string, { offered, refused, open, cpu, delayMs, firstTokenMs, refusalMs, recoveryS }: Figures) => {
  const pair = ({ p50, p99 }: Quantiles) => (Number.isNaN(p50) ? '' : `${p50.toFixed(0)} / ${p99.toFixed(0)}`);
  const cells = [name, offered, refused, open, `${(cpu * 100).toFixed(0)} %`];
  process.stdout.write(
    `| ${[...cells, ...[delayMs, firstTokenMs, refusalMs].map(pair), recoveryS.toFixed(1)].join(' | ')} |\n`,
  );
};

// Compiled code and pools first; then as many as are let in when there is no end of questions.
await arrive(side, upstream, { perSecond: 20, seconds: 5, countedFrom: 0 });
const flood = await arrive(side, upstream, { perSecond: 150, seconds: ANSWER_S, countedFrom: 0 });
const carried = (flood.offered - flood.refused) / ANSWER_S;
process.stdout.write(`Node ${process.version}, answers of ${ANSWER_S} s with ${1_000 / GAP_MS} tokens a second\n\n`);
process.stdout.write('| load | offered | refused | most at once | CPU | delay a token p50 / p99 ms |');
process.stdout.write(' first token | refusal | let in again, s |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n');
const generator = monitorEventLoopDelay({ resolution: 1 });
generator.enable();
const long = { seconds: 2 * ANSWER_S, countedFrom: ANSWER_S / 2 };
line('nine tenths', await arrive(side, upstream, { perSecond: 0.9 * carried, ...long }));
line('twice', await arrive(side, upstream, { perSecond: 2 * carried, ...long }));
const own = generator.percentile(99) / 1e6;
process.stdout.write(`\nThe generator's own turns are in all of these: p99 ${own.toFixed(0)} ms\n`);
await side.stop();
upstream.close();
