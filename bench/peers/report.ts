import { format, row } from '../report.ts';
import type { Quantiles } from '../scenarios.ts';
import type { Comparison, Outcome, PeerFigures } from './compare.ts';

/** Formats a comparison as Markdown. Pure. */

/** A comparison, and where it was made. */
export interface PeerResults extends Comparison {
  readonly date: string;
  readonly node: string;
  readonly python: string;
  readonly cores: number;
  readonly cpu: string;
}

const pair = ({ p50, p99 }: Quantiles) => `${format(p50)} / ${format(p99)}`;

const refusedOf = (outcome: Outcome) =>
  'failure' in outcome ? outcome.failure : `${outcome.refused} of ${outcome.streams}`;

function loadRow(title: string, name: string, outcome: Outcome): string {
  if ('failure' in outcome) return row(title, name, outcome.failure, '–', '–', '–', '–');
  const { firstTokenAddedMs, delayMs, cpuMicrosPerToken, waitedShare } = outcome;
  return row(
    title,
    name,
    refusedOf(outcome),
    pair(firstTokenAddedMs),
    pair(delayMs),
    format(cpuMicrosPerToken),
    format(waitedShare * 100, 0),
  );
}

function leavingCell(leavingMs: PeerFigures['leavingMs']): string {
  if ('failure' in leavingMs) return leavingMs.failure;
  if (leavingMs.p50 === Number.POSITIVE_INFINITY) return 'never';
  return `${format(leavingMs.p50)} / ${leavingMs.p99 === Number.POSITIVE_INFINITY ? 'never' : format(leavingMs.p99)}`;
}

function resourceRow({ title, idleMb, held, capacity, leavingMs }: PeerFigures): string {
  const perStream = 'failure' in held ? '–' : format(held.rssPerStreamKb, 0);
  const carried = capacity.limit === undefined ? `${capacity.streams} or more` : String(capacity.streams);
  const cells = [format(idleMb, 0), perStream, refusedOf(held), carried, capacity.limit ?? '', leavingCell(leavingMs)];
  return row(title, ...cells);
}

export function peersMarkdown({ date, node, python, cores, cpu, peers, skipped }: PeerResults): string {
  return [
    `${date}, Node ${node}, Python ${python}, ${cores} cores (${cpu}), one core for the peer`,
    '',
    row(
      'peer',
      'load, 50 tokens/s each',
      'refused',
      'first token added p50 / p99 ms',
      'delay per token p50 / p99 ms',
      'CPU µs/token',
      'waited for the core, %',
    ),
    row('---', '---', '---:', '---:', '---:', '---:', '---:'),
    ...peers.flatMap(({ title, loads }) =>
      Object.entries(loads).map(([name, outcome]) => loadRow(title, name, outcome)),
    ),
    '',
    row(
      'peer',
      'idle, MB',
      'memory per stream, KB',
      'refused of these',
      'streams a core carries',
      'limit',
      'reader leaves: upstream closed after p50 / p99 ms',
    ),
    row('---', '---:', '---:', '---:', '---:', '---', '---:'),
    ...peers.map(resourceRow),
    ...(skipped.length === 0 ? [] : ['', ...skipped.map((reason) => `Skipped: ${reason}`)]),
  ].join('\n');
}
