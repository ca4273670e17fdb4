import { AnswerFailed, type OpenStream } from './client.ts';
import { sleep, startStream } from './scenarios.ts';
import type { SystemUnderTest } from './system-under-test.ts';
import type { Upstream } from './upstream.ts';

/** A constant load over a long time, and the search for what it leaves behind. */

export interface SoakOptions {
  /** Streams that are read at the same time. */
  readonly streams: number;
  readonly durationMs: number;
  /** Time between two samples. */
  readonly sampleMs: number;
  /** Time for connections and streams to be released after the load. */
  readonly settleMs: number;
  /** Returns the number of keys in Redis; absent without Redis. */
  readonly countKeys?: (() => Promise<number>) | undefined;
  onSample?(sample: Sample): void;
}

/** One measurement under load. */
export interface Sample {
  readonly atMs: number;
  readonly questions: number;
  readonly heapBytes: number;
  readonly rssBytes: number;
  readonly descriptors: number;
}

/** Resources that a process holds at rest. */
export interface Holdings {
  readonly descriptors: number;
  readonly generations: number;
  readonly readers: number;
  readonly responses: number;
  readonly keys: number;
}

export interface SoakResult {
  readonly questions: number;
  readonly complete: number;
  /** Answers that their reader left. */
  readonly left: number;
  /** Answers that the provider cut, and whose readers were told so. */
  readonly cut: number;
  /** Messages of wrong texts and unexpected ends; the first ten. */
  readonly wrong: readonly string[];
  readonly wrongCount: number;
  readonly samples: readonly Sample[];
  readonly before: Holdings;
  readonly after: Holdings;
}

const MAX_MESSAGES = 10;
const GAP_MS = 20;
/** Lengths of answers, in tokens; one after the other. */
const LENGTHS = [5, 40, 120, 20, 300, 60, 10];

type Kind = 'complete' | 'left' | 'cut';

/** Returns the fate of a question: of twenty, four are left by their readers and one is cut by the provider. */
function kindOf(n: number): Kind {
  if (n % 5 === 0) return 'left';
  return n % 20 === 7 ? 'cut' : 'complete';
}

export async function runSoak(system: SystemUnderTest, upstream: Upstream, options: SoakOptions): Promise<SoakResult> {
  const { streams, durationMs, sampleMs, settleMs } = options;
  const before = await readHoldings(system, options);
  const counts = { complete: 0, left: 0, cut: 0 };
  const wrong: string[] = [];
  let [questions, wrongCount] = [0, 0];
  const startedAt = performance.now();
  const isOver = () => performance.now() - startedAt >= durationMs;

  const askUntilOver = async () => {
    while (!isOver()) {
      const n = questions++;
      const kind = kindOf(n);
      try {
        await ask(system, upstream, kind, LENGTHS[n % LENGTHS.length] as number);
        counts[kind] += 1;
      } catch (error) {
        wrongCount += 1;
        if (wrong.length < MAX_MESSAGES) wrong.push(`${kind}: ${(error as Error).message}`);
        await sleep(100); // A service that is down is not asked in a tight loop.
      }
    }
  };

  const samples: Sample[] = [];
  const takeSamples = async () => {
    for (let dueMs = sampleMs; dueMs <= durationMs; dueMs += sampleMs) {
      await sleep(Math.max(0, startedAt + dueMs - performance.now()));
      const heapBytes = await system.heapBytes();
      const rest = { rssBytes: system.rssBytes(), descriptors: system.descriptors() };
      const sample = { atMs: performance.now() - startedAt, questions, heapBytes, ...rest };
      samples.push(sample);
      options.onSample?.(sample);
    }
  };

  await Promise.all([takeSamples(), ...Array.from({ length: streams }, askUntilOver)]);
  let after = await readHoldings(system, options);
  const endsAt = performance.now() + settleMs;
  while (findLeftovers(before, after).length > 0 && performance.now() < endsAt) {
    await sleep(250);
    after = await readHoldings(system, options);
  }
  return { questions, ...counts, wrong, wrongCount, samples, before, after };
}

/** Asks one question. @throws Error if the text is wrong, or the answer does not end as its kind demands */
async function ask(system: SystemUnderTest, upstream: Upstream, kind: Kind, tokens: number): Promise<void> {
  const stream = startStream(system, upstream, tokens, GAP_MS, kind === 'cut' ? Math.ceil(tokens / 2) : undefined);
  if (kind === 'left') return leave(stream, (tokens * GAP_MS) / 2);
  try {
    await stream.done;
  } catch (error) {
    if (kind === 'cut' && error instanceof AnswerFailed && error.code === 'upstream_truncated') return;
    throw error;
  }
  if (kind === 'cut') throw new Error('an answer that was cut seems complete');
}

/** Reads for some time and disconnects. @throws Error if the text until then is wrong */
async function leave(stream: OpenStream, ms: number): Promise<void> {
  let hasLeft = false;
  const ended = stream.done.then(
    () => {},
    (error) => {
      if (!hasLeft) throw error;
    },
  );
  await Promise.race([ended, sleep(ms)]);
  hasLeft = true;
  stream.disconnect();
  await ended;
}

async function readHoldings(system: SystemUnderTest, { countKeys }: SoakOptions): Promise<Holdings> {
  const text = await fetch(`${system.url}/metrics`, { headers: { connection: 'close' } }).then((one) => one.text());
  const gauge = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
  return {
    descriptors: system.descriptors(),
    generations: gauge('sluice_generations_active'),
    readers: gauge('sluice_readers'),
    responses: gauge('sluice_responses_open'),
    keys: (await countKeys?.()) ?? 0,
  };
}

/** Descriptors that a process may have opened for good since its start, such as those of its thread pool. */
const SPARE_DESCRIPTORS = 4;

function findLeftovers(before: Holdings, after: Holdings): string[] {
  return (Object.keys(after) as (keyof Holdings)[])
    .filter((name) => !(Number.isNaN(after[name]) && name === 'descriptors'))
    .filter((name) => !(after[name] <= before[name] + (name === 'descriptors' ? SPARE_DESCRIPTORS : 0)))
    .map((name) => `${name} at the end: ${after[name]}, at the start: ${before[name]}`);
}

/** Share of the samples at the beginning that do not count: caches fill and code is compiled. */
const WARM_UP_SHARE = 0.2;
/** Least number of samples for a slope. */
const MIN_SAMPLES = 10;
/** Growth over the counted time that is a fault: a share of the mean, and at least an absolute value. */
const MAX_GROWTH = { share: 0.15, heapBytes: 6 * 1024 * 1024, descriptors: 20 } as const;

/** Returns the faults that a soak has found. */
export function findFaults(result: SoakResult): string[] {
  const { wrongCount, wrong, samples, before, after } = result;
  const faults = findLeftovers(before, after);
  if (wrongCount > 0) faults.push(`${wrongCount} wrong answers: ${wrong.join('; ')}`);
  for (const kind of ['complete', 'left', 'cut'] as const) if (result[kind] === 0) faults.push(`no answer was ${kind}`);
  const counted = samples.slice(Math.floor(samples.length * WARM_UP_SHARE));
  for (const name of ['heapBytes', 'descriptors'] as const) {
    const values = counted.map((sample) => sample[name]);
    if (values.length < MIN_SAMPLES || values.some(Number.isNaN)) continue;
    const { mean, growth } = trend(values);
    if (growth > Math.max(mean * MAX_GROWTH.share, MAX_GROWTH[name]))
      faults.push(`${name} grow by ${growth.toFixed(0)} from a mean of ${mean.toFixed(0)}`);
  }
  return faults;
}

/** Returns the mean of evenly spaced values, and their growth from the first to the last by linear regression. */
export function trend(values: readonly number[]): { mean: number; growth: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const middle = (values.length - 1) / 2;
  let [covariance, variance] = [0, 0];
  values.forEach((value, i) => {
    covariance += (i - middle) * (value - mean);
    variance += (i - middle) ** 2;
  });
  return { mean, growth: variance === 0 ? 0 : (covariance / variance) * (values.length - 1) };
}
