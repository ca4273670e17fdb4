import { type Reading, type Running, read } from './client.ts';
import type { Side } from './side.ts';
import type { Upstream } from './upstream.ts';

/** Loads, and what each shows. */

export interface Load {
  readonly streams: number;
  readonly tokens: number;
  readonly gapMs: number;
  /** Starts are spread over this long. */
  readonly rampMs: number;
}

export interface Figures {
  readonly streams: number;
  readonly tokensPerSecond: number;
  readonly cpuMicrosPerToken: number;
  readonly firstTokenMs: Quantiles;
  readonly delayMs: Quantiles;
  readonly rssPerStreamKb: number;
}

export interface Quantiles {
  readonly p50: number;
  readonly p99: number;
}

export const LOADS: Readonly<Record<string, Load>> = {
  burst: { streams: 64, tokens: 2_000, gapMs: 0, rampMs: 0 },
  paced: { streams: 200, tokens: 200, gapMs: 20, rampMs: 1_000 },
  fast: { streams: 40, tokens: 1_500, gapMs: 2, rampMs: 200 },
};

/** Streams at one token each second: how the cost grows with their number. */
export const GROWTH: readonly number[] = [1, 10, 100, 500, 1_000, 2_500, 5_000];

let serial = 0;

/** Asks one question. */
export function start(side: Side, upstream: Upstream, tokens: number, gapMs: number): Running & { id: string } {
  const id = `s${++serial}`;
  const sent = new Float64Array(tokens);
  upstream.sent.set(id, sent);
  const running = read(side.url, { id, tokens, gapMs }, sent);
  void running.done.catch(() => {}).finally(() => upstream.sent.delete(id));
  return { ...running, id };
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs a load to its end; every answer was checked, and one that is wrong fails the bench. */
export async function run(side: Side, upstream: Upstream, { streams, tokens, gapMs, rampMs }: Load): Promise<Figures> {
  const rssBefore = side.rssBytes();
  const cpuBefore = side.cpuSeconds();
  const begun = performance.now();
  let rssMost = rssBefore;
  const watch = setInterval(() => {
    rssMost = Math.max(rssMost, side.rssBytes());
  }, 250);
  const readings: Promise<Reading>[] = [];
  try {
    for (let i = 0; i < streams; i++) {
      readings.push(start(side, upstream, tokens, gapMs).done);
      const due = begun + (rampMs * (i + 1)) / streams;
      if (due > performance.now() + 2) await sleep(due - performance.now());
    }
    const done = await Promise.all(readings);
    const seconds = (performance.now() - begun) / 1_000;
    return {
      streams,
      tokensPerSecond: (streams * tokens) / seconds,
      cpuMicrosPerToken: ((side.cpuSeconds() - cpuBefore) * 1e6) / (streams * tokens),
      firstTokenMs: quantiles(done.map((reading) => reading.firstTokenMs)),
      delayMs: quantiles(done.flatMap((reading) => reading.delaysMs)),
      rssPerStreamKb: (rssMost - rssBefore) / streams / 1_024,
    };
  } finally {
    clearInterval(watch);
  }
}

/** From a reader that leaves in the middle of an answer to the upstream's closed connection. */
export async function cancel(side: Side, upstream: Upstream, times: number): Promise<Quantiles> {
  const delays: number[] = [];
  for (let i = 0; i < times; i++) {
    const running = start(side, upstream, 10_000, 20);
    const sent = upstream.sent.get(running.id) as Float64Array;
    while (sent[3] === 0) await sleep(5);
    const left = performance.now();
    await new Promise<void>((resolve) => {
      upstream.onAborted = (id) => {
        if (id === running.id) resolve();
      };
      running.cut();
    });
    delays.push(performance.now() - left);
  }
  return quantiles(delays);
}

/** Resident bytes for each reader that has stopped reading a long answer, in KB. */
export async function held(side: Side, upstream: Upstream, readers: number, ms: number): Promise<number> {
  const before = side.rssBytes();
  const running = Array.from({ length: readers }, () => start(side, upstream, 200_000, 0));
  await sleep(100);
  for (const reader of running) reader.pause();
  await sleep(ms);
  const after = side.rssBytes();
  for (const reader of running) reader.cut();
  await sleep(500);
  return (after - before) / readers / 1_024;
}

export function quantiles(values: readonly number[]): Quantiles {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}
