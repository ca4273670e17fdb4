import { type OpenStream, openStream, type StreamTimings } from './client.ts';
import type { SystemUnderTest } from './system-under-test.ts';
import type { Upstream } from './upstream.ts';

/** The loads of the benchmarks, and the measurements under them. */

/** A number of streams that are read at the same time. */
export interface Load {
  readonly streams: number;
  readonly tokens: number;
  /** Milliseconds between two tokens of a stream; 0 sends them as fast as they are read. */
  readonly gapMs: number;
  /** Time over which the starts of the streams are spread. */
  readonly rampMs: number;
}

/** Results of one load. */
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

/** Numbers of open streams at one token per second each, to measure how the cost grows. */
export const STREAM_COUNTS: readonly number[] = [1, 10, 100, 500, 1_000, 2_500, 5_000];

let lastId = 0;

/**
 * Asks one question with a new id.
 * @param cutAfter number of tokens after which the upstream cuts the connection; undefined for a whole answer
 */
export function startStream(
  system: SystemUnderTest,
  upstream: Upstream,
  tokens: number,
  gapMs: number,
  cutAfter?: number,
): OpenStream & { id: string } {
  const id = `s${++lastId}`;
  const sentAt = new Float64Array(tokens);
  upstream.sentAt.set(id, sentAt);
  if (cutAfter !== undefined) upstream.cutAfter.set(id, cutAfter);
  const stream = openStream(system.url, { id, tokens, gapMs }, sentAt, undefined, system.api);
  void stream.done
    .catch(() => {})
    .finally(() => {
      upstream.sentAt.delete(id);
      upstream.cutAfter.delete(id);
    });
  return { ...stream, id };
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Runs a load to its end. @throws Error if an answer fails or differs from the expected one */
export async function runLoad(
  system: SystemUnderTest,
  upstream: Upstream,
  { streams, tokens, gapMs, rampMs }: Load,
): Promise<Figures> {
  const rssBefore = system.rssBytes();
  const cpuBefore = system.cpuSeconds();
  const startedAt = performance.now();
  let maxRss = rssBefore;
  const memoryTimer = setInterval(() => {
    maxRss = Math.max(maxRss, system.rssBytes());
  }, 250);
  const pending: Promise<StreamTimings>[] = [];
  try {
    for (let i = 0; i < streams; i++) {
      pending.push(startStream(system, upstream, tokens, gapMs).done);
      const dueAt = startedAt + (rampMs * (i + 1)) / streams;
      if (dueAt > performance.now() + 2) await sleep(dueAt - performance.now());
    }
    const timings = await Promise.all(pending);
    const seconds = (performance.now() - startedAt) / 1_000;
    return {
      streams,
      tokensPerSecond: (streams * tokens) / seconds,
      cpuMicrosPerToken: ((system.cpuSeconds() - cpuBefore) * 1e6) / (streams * tokens),
      firstTokenMs: quantiles(timings.map((timing) => timing.firstTokenMs)),
      delayMs: quantiles(timings.flatMap((timing) => timing.delaysMs)),
      rssPerStreamKb: (maxRss - rssBefore) / streams / 1_024,
    };
  } finally {
    clearInterval(memoryTimer);
  }
}

/** Measures the milliseconds from the disconnect of a reader to the close of its upstream connection. */
export async function measureCancellation(
  system: SystemUnderTest,
  upstream: Upstream,
  times: number,
): Promise<Quantiles> {
  const delays: number[] = [];
  for (let i = 0; i < times; i++) {
    const stream = startStream(system, upstream, 10_000, 20);
    const sentAt = upstream.sentAt.get(stream.id) as Float64Array;
    while (sentAt[3] === 0) await sleep(5);
    const disconnectedAt = performance.now();
    await new Promise<void>((resolve) => {
      upstream.onAborted = (id) => {
        if (id === stream.id) resolve();
      };
      stream.disconnect();
    });
    delays.push(performance.now() - disconnectedAt);
  }
  return quantiles(delays);
}

/**
 * Measures the resident memory, in KB, for each reader that has stopped reading a long answer.
 * @param ms time for which the readers stay connected without reading
 */
export async function measureStoppedReaders(
  system: SystemUnderTest,
  upstream: Upstream,
  readers: number,
  ms: number,
): Promise<number> {
  const before = system.rssBytes();
  const streams = Array.from({ length: readers }, () => startStream(system, upstream, 200_000, 0));
  await sleep(100);
  for (const stream of streams) stream.pause();
  await sleep(ms);
  const after = system.rssBytes();
  for (const stream of streams) stream.disconnect();
  await sleep(500);
  return (after - before) / readers / 1_024;
}

/** Returns the median and the 99th percentile. Ignores NaN; both are NaN without values. */
export function quantiles(values: readonly number[]): Quantiles {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}
