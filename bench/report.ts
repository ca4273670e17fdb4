import type { Figures, Quantiles } from './scenarios.ts';

/** Formats results as Markdown and as a plot. Pure. */

/** Results of one run of the benchmark. */
export interface Results {
  readonly date: string;
  readonly node: string;
  readonly cores: number;
  readonly cpu: string;
  /** By scenario, then by system under test. */
  readonly loads: Readonly<Record<string, Readonly<Record<string, Figures>>>>;
  /** Short answers per second, by system under test. */
  readonly requestsPerSecond: Readonly<Record<string, number>>;
  /** Milliseconds from the disconnect of a reader to the close of its upstream connection. */
  readonly cancelMs: Quantiles;
  /** Memory for each reader that has stopped reading, by system under test. */
  readonly heldKb: Readonly<Record<string, number>>;
  /** Results by number of open streams. */
  readonly growth: readonly Figures[];
}

export const format = (value: number, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : '–');

export function markdown({
  date,
  node,
  cores,
  cpu,
  loads,
  requestsPerSecond,
  cancelMs,
  heldKb,
  growth,
}: Results): string {
  const rows = Object.entries(loads).flatMap(([scenario, systems]) =>
    Object.entries(systems).map(([system, f]) =>
      row(
        scenario,
        system,
        `${f.refused} of ${f.streams}`,
        format(f.tokensPerSecond, 0),
        format(f.cpuMicrosPerToken),
        `${format(f.firstTokenMs.p50)} / ${format(f.firstTokenMs.p99)}`,
        `${format(f.delayMs.p50)} / ${format(f.delayMs.p99)}`,
      ),
    ),
  );
  return [
    `${date}, Node ${node}, ${cores} cores (${cpu}), one core for the system under test`,
    '',
    row(
      'scenario',
      'system',
      'refused',
      'tokens/s',
      'CPU µs/token',
      'first token p50 / p99 ms',
      'delay per token p50 / p99 ms',
    ),
    row('---', '---', '---:', '---:', '---:', '---:', '---:'),
    ...rows,
    '',
    row('', ...Object.keys(requestsPerSecond)),
    row('---', ...Object.keys(requestsPerSecond).map(() => '---:')),
    row(
      'short answers per second (autocannon, 50 connections)',
      ...Object.values(requestsPerSecond).map((value) => format(value, 0)),
    ),
    row(
      'memory per reader that stopped reading, KB',
      ...Object.keys(requestsPerSecond).map((system) => format(heldKb[system] ?? Number.NaN, 0)),
    ),
    '',
    `Upstream connection closed after a reader disconnects: ${format(cancelMs.p50)} ms (p50), ${format(cancelMs.p99)} ms (p99).`,
    '',
    row(
      'open streams, 1 token/s each',
      'refused',
      'CPU µs/token',
      'one core busy, %',
      'memory per stream, KB',
      'first token p99 ms',
    ),
    row('---:', '---:', '---:', '---:', '---:', '---:'),
    ...growth.map((f) =>
      row(
        String(f.streams),
        String(f.refused),
        format(f.cpuMicrosPerToken, 0),
        format((f.cpuMicrosPerToken * f.tokensPerSecond) / 1e4),
        format(f.rssPerStreamKb, 0),
        format(f.firstTokenMs.p99),
      ),
    ),
  ].join('\n');
}

export function row(...cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`;
}

const TITLE = 'One core busy, by open streams at one token per second each';
const BOX = { width: 640, height: 320, left: 60, right: 20, top: 30, bottom: 45 };

/** Returns an SVG plot of the CPU share of one core by number of open streams. Both axes start at zero. */
export function plot(growth: readonly Figures[]): string {
  const points = growth.map((f) => ({ x: f.streams, y: (f.cpuMicrosPerToken * f.tokensPerSecond) / 1e4 }));
  const max = {
    x: Math.max(...points.map(({ x }) => x)),
    y: Math.ceil(Math.max(10, ...points.map(({ y }) => y)) / 10) * 10,
  };
  const x = (value: number) => BOX.left + (value / max.x) * (BOX.width - BOX.left - BOX.right);
  const y = (value: number) => BOX.height - BOX.bottom - (value / max.y) * (BOX.height - BOX.top - BOX.bottom);
  const text = (at: [number, number], anchor: string, content: string) =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" text-anchor="${anchor}">${content}</text>`;
  const lines = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const level = share * max.y;
    return `<line x1="${BOX.left}" x2="${BOX.width - BOX.right}" y1="${y(level).toFixed(1)}" y2="${y(level).toFixed(1)}" stroke="#ccc"/>${text([BOX.left - 8, y(level) + 4], 'end', `${level.toFixed(0)} %`)}`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${BOX.width} ${BOX.height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${BOX.width}" height="${BOX.height}" fill="white"/>`,
    `<title>${TITLE}</title>`,
    text([BOX.left, 18], 'start', TITLE),
    ...lines,
    `<polyline fill="none" stroke="#0b6" stroke-width="2" points="${points.map((p) => `${x(p.x).toFixed(1)},${y(p.y).toFixed(1)}`).join(' ')}"/>`,
    ...points.map((p) => `<circle cx="${x(p.x).toFixed(1)}" cy="${y(p.y).toFixed(1)}" r="3" fill="#0b6"/>`),
    ...points
      .filter((p) => p.x === 1 || p.x >= max.x / 10)
      .map((p) => text([x(p.x), BOX.height - BOX.bottom + 18], 'middle', String(p.x))),
    '</svg>',
    '',
  ].join('\n');
}

/** Returns the median of at least one value; the upper one of two. */
export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] as number;
}
