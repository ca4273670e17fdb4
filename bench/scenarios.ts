import { isRefusal, type OpenStream, openStream, type StreamTimings } from './client.ts';
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

/** Results of one load. All but `streams` and `refused` concern the answers that were not refused. */
export interface Figures {
  readonly streams: number;
  /** Questions that were refused because of the load. */
  readonly refused: number;
  readonly tokensPerSecond: number;
  readonly cpuMicrosPerToken: number;
  readonly firstTokenMs: Quantiles;
  /** Time to the first token without the time that the upstream took for it. */
  readonly firstTokenAddedMs: Quantiles;
  readonly delayMs: Quantiles;
  readonly rssPerStreamKb: number;
  /** Share of the time in which the system was ready to run and its core was taken, mostly by other processes. */
  readonly waitedShare: number;
}

export interface Quantiles {
  readonly p50: number;
  readonly p99: number;
}

export const LOADS: Readonly<Record<string, Load>> = {
  burst: { streams: 64, tokens: 2_000, gapMs: 0, rampMs: 0 },
  paced: { streams: 200, tokens: 200, gapMs: 20, rampMs: 1_000 },
  // Long answers: most of the load runs in a process that is warm.
  steady: { streams: 200, tokens: 800, gapMs: 20, rampMs: 1_000 },
  fast: { streams: 40, tokens: 1_500, gapMs: 2, rampMs: 200 },
};

/** Numbers of open streams at one token per second each, to measure how the cost grows. */
export const STREAM_COUNTS: readonly number[] = [1, 10, 100, 500, 1_000, 2_500, 5_000];

let lastId = 0;

/** Times of one complete answer, and those of them that are not the upstream's. */
interface MeasuredTimings extends StreamTimings {
  readonly firstTokenAddedMs: number;
}

/** A stream of a load. */
interface MeasuredStream extends OpenStream {
  readonly id: string;
  readonly done: Promise<MeasuredTimings>;
}

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
): MeasuredStream {
  const id = `s${++lastId}`;
  const sentAt = new Float64Array(tokens);
  upstream.sentAt.set(id, sentAt);
  if (cutAfter !== undefined) upstream.cutAfter.set(id, cutAfter);
  const stream = openStream(system.url, { id, tokens, gapMs }, sentAt, system);
  const done = stream.done
    .then((timings) => {
      const upstreamMs = (sentAt[0] as number) - (upstream.arrivedAt.get(id) as number);
      return { ...timings, firstTokenAddedMs: timings.firstTokenMs - upstreamMs };
    })
    .finally(() => {
      upstream.sentAt.delete(id);
      upstream.arrivedAt.delete(id);
      upstream.cutAfter.delete(id);
    });
  done.catch(() => {});
  return { ...stream, id, done };
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Runs a load to its end.
 * @param signal disconnects all readers, so that the load fails
 * @throws Error if an answer fails, except by a refusal, or differs from the expected one
 */
export async function runLoad(
  system: SystemUnderTest,
  upstream: Upstream,
  { streams, tokens, gapMs, rampMs }: Load,
  signal?: AbortSignal,
): Promise<Figures> {
  const rssBefore = system.rssBytes();
  const cpuBefore = system.cpuSeconds();
  const waitBefore = system.waitSeconds();
  const startedAt = performance.now();
  let maxRss = rssBefore;
  const memoryTimer = setInterval(() => {
    maxRss = Math.max(maxRss, system.rssBytes());
  }, 250);
  const started: MeasuredStream[] = [];
  const disconnectAll = () => {
    for (const stream of started) stream.disconnect();
  };
  signal?.addEventListener('abort', disconnectAll);
  let refused = 0;
  const waitForAnswer = async ({ done }: MeasuredStream) => {
    try {
      return [await done];
    } catch (error) {
      if (!isRefusal(error)) throw error;
      refused += 1;
      return [];
    }
  };
  try {
    for (let i = 0; i < streams && !signal?.aborted; i++) {
      started.push(startStream(system, upstream, tokens, gapMs));
      const dueAt = startedAt + (rampMs * (i + 1)) / streams;
      if (dueAt > performance.now() + 2) await sleep(dueAt - performance.now());
    }
    const timings = (await Promise.all(started.map(waitForAnswer))).flat();
    const seconds = (performance.now() - startedAt) / 1_000;
    return {
      streams,
      refused,
      tokensPerSecond: (timings.length * tokens) / seconds,
      cpuMicrosPerToken: ((system.cpuSeconds() - cpuBefore) * 1e6) / (timings.length * tokens),
      firstTokenMs: quantiles(timings.map((timing) => timing.firstTokenMs)),
      firstTokenAddedMs: quantiles(timings.map((timing) => timing.firstTokenAddedMs)),
      delayMs: quantiles(timings.flatMap((timing) => timing.delaysMs)),
      rssPerStreamKb: (maxRss - rssBefore) / timings.length / 1_024,
      waitedShare: (system.waitSeconds() - waitBefore) / seconds,
    };
  } finally {
    clearInterval(memoryTimer);
    signal?.removeEventListener('abort', disconnectAll);
    disconnectAll();
  }
}

/**
 * Measures the milliseconds from the disconnect of a reader to the close of its upstream connection; Infinity if the
 * answer was generated to its end.
 * @param tokens length of the answer, at 50 tokens per second
 */
export async function measureCancellation(
  system: SystemUnderTest,
  upstream: Upstream,
  times: number,
  tokens = 10_000,
): Promise<Quantiles> {
  const delays: number[] = [];
  for (let i = 0; i < times; i++) {
    const stream = startStream(system, upstream, tokens, 20);
    const closed = new Promise<boolean>((resolve) => {
      upstream.onClosed = (id, isComplete) => {
        if (id === stream.id) resolve(isComplete);
      };
    });
    let hasEnded = false;
    stream.done.catch(() => {}).finally(() => (hasEnded = true));
    const sentAt = upstream.sentAt.get(stream.id) as Float64Array;
    while (sentAt[3] === 0 && !hasEnded) await sleep(5);
    if (hasEnded) {
      await stream.done;
      throw new Error('the answer ended before its reader left');
    }
    const disconnectedAt = performance.now();
    stream.disconnect();
    delays.push((await closed) ? Number.POSITIVE_INFINITY : performance.now() - disconnectedAt);
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
