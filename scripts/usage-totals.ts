/** Adds up usage records. Each generation counts once. Pure. */

/** Fields by which records can be grouped. */
export const FIELDS = ['key', 'visitor', 'subject', 'model', 'day', 'outcome'] as const;
export type Field = (typeof FIELDS)[number];

/** Tokens and cost of the records of one group. */
export interface Total {
  /** Values of the fields; `-` if the records have none. */
  readonly group: readonly string[];
  generations: number;
  /** With the estimated ones. */
  inputTokens: number;
  outputTokens: number;
  estimatedInputTokens: number;
  estimatedOutputTokens: number;
  /** USD, of the generations whose cost is known. */
  cost: number;
  /** Generations with tokens whose cost is unknown. */
  withoutCost: number;
}

export interface Totals {
  /** Adds the record in a line. Returns false if the line holds none. */
  add(line: string): boolean;
  /** Records that were left out because of another one of the same generation. */
  readonly duplicates: number;
  /** Returns the totals, sorted by their groups. */
  list(): Total[];
}

/** Begin of a record. Some programs write text before the lines that they collect. */
const MARK = '{"usage":1,';
/** Costs are multiples of this part of a USD, and their sums are exact. */
const UNITS_PER_USD = 1e12;
/** Rank of the record of one generation that counts, if there are several. */
const RANKS: Readonly<Record<string, number>> = { counted: 2, both: 1, estimated: 0 };

interface Counted {
  readonly rank: number;
  readonly sum: Sum;
  readonly values: readonly number[];
}

interface Sum {
  readonly group: readonly string[];
  /** Integers; the cost in units. */
  readonly values: bigint[];
}

export function createTotals(by: readonly Field[]): Totals {
  const sums = new Map<string, Sum>();
  /** The numbers of each generation, by its stream, so that a better record can replace them. */
  const known = new Map<string, Counted>();
  let duplicates = 0;

  const addTo = ({ values }: Sum, numbers: readonly number[], sign: 1n | -1n) => {
    for (const [i, number] of numbers.entries()) values[i] = (values[i] ?? 0n) + sign * BigInt(number);
  };

  return {
    get duplicates() {
      return duplicates;
    },
    add(line) {
      const record = parse(line);
      if (record === undefined) return false;
      const { stream } = record;
      const rank = RANKS[String(record.basis)] ?? 0;
      const before = known.get(stream);
      if (before !== undefined) {
        duplicates += 1;
        if (before.rank >= rank) return true;
        addTo(before.sum, before.values, -1n);
      }
      const group = by.map((field) => (field === 'day' ? record.time.slice(0, 10) : textOf(record[field])));
      const name = JSON.stringify(group);
      const sum = sums.get(name) ?? { group, values: [] };
      sums.set(name, sum);
      const values = numbersOf(record);
      addTo(sum, values, 1n);
      known.set(stream, { rank, sum, values });
      return true;
    },
    list() {
      const found = [...sums.values()].map(totalOf).filter(({ generations }) => generations > 0);
      return found.sort((a, b) => compare(a.group, b.group));
    },
  };
}

type Fields = Readonly<Record<string, unknown>> & { readonly stream: string; readonly time: string };

function parse(line: string): Fields | undefined {
  const from = line.indexOf(MARK);
  if (from === -1) return undefined;
  try {
    const record = JSON.parse(line.slice(from)) as Fields;
    const isComplete = typeof record.stream === 'string' && !Number.isNaN(Date.parse(record.time));
    return isComplete ? record : undefined;
  } catch {
    return undefined; // A line that was cut, or that only quotes a record.
  }
}

/** Returns what a record adds, in the order of `totalOf`. */
function numbersOf({ cost, ...record }: Fields): number[] {
  const tokens = ['inputTokens', 'outputTokens', 'estimatedInputTokens', 'estimatedOutputTokens'].map((name) => {
    const count = Number(record[name] ?? 0);
    return Number.isFinite(count) ? Math.round(count) : 0;
  });
  const hasCost = typeof cost === 'number' && Number.isFinite(cost);
  const hasTokens = (tokens[0] ?? 0) + (tokens[1] ?? 0) > 0;
  return [1, ...tokens, hasCost ? Math.round(cost * UNITS_PER_USD) : 0, !hasCost && hasTokens ? 1 : 0];
}

function totalOf({ group, values }: Sum): Total {
  const [generations = 0, inputTokens = 0, outputTokens = 0, estimatedInputTokens = 0, ...rest] = values.map(Number);
  const [estimatedOutputTokens = 0, units = 0, withoutCost = 0] = rest;
  const tokens = { inputTokens, outputTokens, estimatedInputTokens, estimatedOutputTokens };
  return { group, generations, ...tokens, cost: units / UNITS_PER_USD, withoutCost };
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '-';
}

function compare(a: readonly string[], b: readonly string[]): number {
  for (const [i, text] of a.entries()) {
    const other = b[i] ?? '';
    if (text !== other) return text < other ? -1 : 1;
  }
  return 0;
}
