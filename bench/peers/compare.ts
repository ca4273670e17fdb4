import { type Figures, type Load, measureCancellation, type Quantiles, runLoad } from '../scenarios.ts';
import type { SystemUnderTest } from '../system-under-test.ts';
import type { Upstream } from '../upstream.ts';
import type { Peer } from './list.ts';

/** Measures peers one after another under the same loads. */

/** Loads of a comparison. */
export interface Loads {
  /** Compiles code and fills connection pools. */
  readonly warmUp: Load;
  /** By name. */
  readonly measured: Readonly<Record<string, Load>>;
  /** Many slow streams, to measure the memory of each. */
  readonly held: Load;
  /** The load that grows, without its number of streams. */
  readonly growing: Omit<Load, 'streams'>;
  /** Numbers of streams of the load that grows. */
  readonly streamCounts: readonly number[];
  /** Delay of the tokens (p99) up to which a core carries them. */
  readonly maxDelayMs: number;
  /** Readers that leave, one after another, and the tokens of their answers. */
  readonly leaving: { readonly readers: number; readonly tokens: number };
}

const LIGHT: Load = { streams: 20, tokens: 200, gapMs: 20, rampMs: 1_000 };
const MAX_DELAY_MS = 100;
const GROWING = { tokens: 200, gapMs: 20, rampMs: 2_000 };
const LEAVING = { readers: 10, tokens: 250 };

export const LOADS: Loads = {
  warmUp: { streams: 32, tokens: 200, gapMs: 2, rampMs: 0 },
  measured: { '20 streams': LIGHT, '200 streams': { ...LIGHT, streams: 200 } },
  held: { streams: 500, tokens: 5, gapMs: 1_000, rampMs: 2_000 },
  growing: GROWING,
  streamCounts: [50, 100, 200, 400, 600, 800, 1_000, 1_300],
  maxDelayMs: MAX_DELAY_MS,
  leaving: LEAVING,
};

export const SLOW_LOADS: Loads = {
  warmUp: { streams: 8, tokens: 100, gapMs: 20, rampMs: 0 },
  measured: { '20 streams': LIGHT },
  held: { ...LOADS.held, streams: 50 },
  growing: GROWING,
  streamCounts: [10, 20, 30, 50, 75, 100, 150, 200],
  maxDelayMs: MAX_DELAY_MS,
  leaving: LEAVING,
};

/** Time that a load may take beyond the pace of its tokens. */
const EXTRA_MS = 20_000;
/** Other processes may take the core. Of several runs, the one counts in which they took the least of its time. */
const RUNS = 2;
/** Runs of a number of streams before their delay counts as too long. */
const TRIES = 3;

/** Results of one load, or the reason of its failure. */
export type Outcome = Figures | { readonly failure: string };

/** The number of streams that a core carries. */
export interface Capacity {
  readonly streams: number;
  /** Result of the next number of streams; undefined if there was none. */
  readonly limit?: string;
}

export interface PeerFigures {
  readonly title: string;
  readonly idleMb: number;
  readonly held: Outcome;
  readonly loads: Readonly<Record<string, Outcome>>;
  readonly capacity: Capacity;
  /** Milliseconds from the disconnect of a reader to that of the upstream; Infinity if the answer was generated. */
  readonly leavingMs: Quantiles | { readonly failure: string };
}

const failureOf = (error: unknown) => ({ failure: (error as Error).message });

/** Runs a load for a limited time. */
async function tryLoad(system: SystemUnderTest, upstream: Upstream, load: Load): Promise<Outcome> {
  const signal = AbortSignal.timeout(load.rampMs + load.tokens * load.gapMs + EXTRA_MS);
  try {
    return await runLoad(system, upstream, load, signal);
  } catch (error) {
    return signal.aborted ? { failure: 'not complete in time' } : failureOf(error);
  }
}

/** Runs a load several times and returns the results of the run in which the system waited least for its core. */
async function tryQuietly(system: SystemUnderTest, upstream: Upstream, load: Load): Promise<Outcome> {
  let best = await tryLoad(system, upstream, load);
  for (let runs = 1; runs < RUNS && !('failure' in best); runs++) {
    const next = await tryLoad(system, upstream, load);
    if ('failure' in next || next.waitedShare < best.waitedShare) best = next;
  }
  return best;
}

/** Returns why a core does not carry a load; undefined if it does. */
function limitOf(outcome: Outcome, maxDelayMs: number): string | undefined {
  if ('failure' in outcome) return outcome.failure;
  if (outcome.refused > 0) return `${outcome.refused} refused`;
  if (outcome.delayMs.p99 <= maxDelayMs) return undefined;
  const waited = outcome.waitedShare > 0.01 ? `, ${(outcome.waitedShare * 100).toFixed(0)} % waited` : '';
  return `delay p99 ${outcome.delayMs.p99.toFixed(0)} ms${waited}`;
}

/** Raises the number of streams until a core does not carry them. */
async function measureCapacity(system: SystemUnderTest, upstream: Upstream, loads: Loads): Promise<Capacity> {
  let carried = 0;
  for (const streams of loads.streamCounts) {
    let limit: string | undefined;
    for (let tries = 0; tries < TRIES; tries++) {
      const outcome = await tryLoad(system, upstream, { ...loads.growing, streams });
      limit = limitOf(outcome, loads.maxDelayMs);
      if (limit === undefined || 'failure' in outcome) break;
    }
    if (limit !== undefined) return { streams: carried, limit: `${limit} at ${streams}` };
    carried = streams;
  }
  return { streams: carried };
}

/** Measures a system that has just been started. The load that may overwhelm it comes last. */
export async function measurePeer(
  title: string,
  system: SystemUnderTest,
  upstream: Upstream,
  loads: Loads,
): Promise<PeerFigures> {
  const idleMb = system.rssBytes() / 1024 / 1024;
  await runLoad(system, upstream, loads.warmUp);
  const held = await tryLoad(system, upstream, loads.held);
  const outcomes: Record<string, Outcome> = {};
  for (const [name, load] of Object.entries(loads.measured)) {
    outcomes[name] = await tryQuietly(system, upstream, load);
  }
  const { readers, tokens } = loads.leaving;
  const leavingMs = await measureCancellation(system, upstream, readers, tokens).catch(failureOf);
  const capacity = await measureCapacity(system, upstream, loads);
  return { title, idleMb, held, loads: outcomes, capacity, leavingMs };
}

export interface Comparison {
  readonly peers: readonly PeerFigures[];
  /** Titles and reasons of peers that were not measured. */
  readonly skipped: readonly string[];
}

/**
 * Installs, starts and measures peers, one at a time. A peer that cannot be installed or started is skipped.
 * @param loadsOf returns the loads of a peer
 * @param log called with each step
 */
export async function comparePeers(
  peers: readonly Peer[],
  upstream: Upstream,
  loadsOf: (peer: Peer) => Loads,
  log: (message: string) => void,
): Promise<Comparison> {
  const figures: PeerFigures[] = [];
  const skipped: string[] = [];
  for (const peer of peers) {
    let system: SystemUnderTest | undefined;
    try {
      log(`${peer.name}: install and start`);
      const folder = (await peer.install?.()) ?? '';
      system = await peer.start(upstream.url, folder);
      log(`${peer.name}: measure`);
      figures.push(await measurePeer(peer.title, system, upstream, loadsOf(peer)));
    } catch (error) {
      skipped.push(`${peer.title}: ${(error as Error).message}`);
      log(`${peer.name}: skipped: ${(error as Error).message}`);
    } finally {
      await system?.stop();
    }
  }
  return { peers: figures, skipped };
}
