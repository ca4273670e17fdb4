import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { createTotals, FIELDS, type Field, type Total } from './usage-totals.ts';

/**
 * Adds up usage records. Usage: `npm run usage -- <file | - | redis://…> … [--by key,model,day] [--json]`. Reads line by
 * line; only about 500 bytes for each generation stay in memory, so that it counts once.
 */

const HELP = `Usage: npm run usage -- <file | - | redis://...> ... [--by ${FIELDS.join(',')}] [--json]`;
/** Entries of a Redis stream that are read together. */
const PAGE = 1_000;

async function* linesOf(input: Readable): AsyncGenerator<string> {
  // Unlike events of readline, an error of the input ends the loop.
  const failed = new Promise<never>((_, reject) => input.once('error', reject));
  failed.catch(() => {});
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]();
  for (;;) {
    const { done, value } = await Promise.race([lines.next(), failed]);
    if (done) return;
    yield value;
  }
}

/** Reads the records of a Redis stream in pages. `REDIS_PREFIX` is that of the service. */
async function* recordsIn(url: string): AsyncGenerator<string> {
  const redis = new Redis(url, { lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null });
  redis.on('error', () => {});
  const name = `${process.env.REDIS_PREFIX || 'sluice'}:usage`;
  try {
    await redis.connect();
    for (let from = '-'; ; ) {
      const entries = await redis.xrange(name, from, '+', 'COUNT', PAGE);
      for (const [, [, record = '']] of entries) yield record;
      const last = entries.at(-1)?.[0];
      if (last === undefined || entries.length < PAGE) return;
      from = `(${last}`;
    }
  } finally {
    redis.disconnect();
  }
}

function open(source: string): AsyncGenerator<string> {
  if (/^rediss?:\/\//.test(source)) return recordsIn(source);
  return linesOf(source === '-' ? process.stdin : createReadStream(source, 'utf8'));
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

/** Returns the arguments, or ends the process with the help. */
function readArguments(): { sources: readonly string[]; by: Field[]; json: boolean } {
  try {
    const options = { by: { type: 'string', default: 'key,model,day' }, json: { type: 'boolean' } } as const;
    const { values, positionals } = parseArgs({ options, allowPositionals: true });
    const by = values.by.split(',');
    const unknown = by.find((field) => !FIELDS.includes(field as Field));
    if (unknown !== undefined) return fail(`--by: unknown field ${unknown}\n${HELP}`);
    if (positionals.length === 0) return fail(HELP);
    return { sources: positionals, by: by as Field[], json: values.json === true };
  } catch (error) {
    return fail(`${(error as Error).message}\n${HELP}`);
  }
}

/** Returns aligned columns; numbers to the right. */
function table(by: readonly Field[], totals: readonly Total[]): string {
  const head = [...by, 'generations', 'input', 'output', 'estimated', 'USD', 'without cost'];
  const rows = totals.map((total) => {
    const estimated = total.estimatedInputTokens + total.estimatedOutputTokens;
    const numbers = [total.generations, total.inputTokens, total.outputTokens, estimated];
    return [...total.group, ...numbers.map(String), total.cost.toFixed(6), String(total.withoutCost)];
  });
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const align = (text: string, i: number) =>
    i < by.length ? text.padEnd(widths[i] ?? 0) : text.padStart(widths[i] ?? 0);
  return [head, ...rows].map((row) => row.map(align).join('  ').trimEnd()).join('\n');
}

const { sources, by, json } = readArguments();
const totals = createTotals(by);
for (const source of sources) {
  try {
    for await (const line of open(source)) totals.add(line);
  } catch (error) {
    const { code, name } = error as NodeJS.ErrnoException;
    // The address may hold a password.
    fail(`${source.replace(/\/\/.*@/, '//')}: cannot be read (${code ?? name})`);
  }
}
const list = totals.list();
if (json) {
  const rows = list.map(({ group, ...sums }) => ({
    ...Object.fromEntries(by.map((field, i) => [field, group[i]])),
    ...sums,
  }));
  console.log(JSON.stringify(rows, null, 2));
} else if (list.length === 0) console.log('No usage records.');
else console.log(table(by, list));
if (totals.duplicates > 0) process.stderr.write(`${totals.duplicates} duplicate records were left out.\n`);
