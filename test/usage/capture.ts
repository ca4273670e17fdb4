import { Writable } from 'node:stream';
import { FormatRegistry } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import type { UsageRecord } from '../../plugins/usage/record.ts';
import { UsageRecord as Schema } from '../../routes/usage-schema.ts';
import { metricValue } from '../metric-value.ts';

/** Returns a stream for `usageTo`, and the records that were written to it. */
export function captureUsage(): { usageTo: Writable; records: UsageRecord[] } {
  const records: UsageRecord[] = [];
  const usageTo = new Writable({
    write(lines, _, done) {
      records.push(...recordsIn(String(lines)));
      done();
    },
  });
  return { usageTo, records };
}

/** Returns the records among lines of text. */
export function recordsIn(text: string): UsageRecord[] {
  const lines = text.split('\n').filter((line) => line.startsWith('{"usage":1,'));
  return lines.map((line) => JSON.parse(line) as UsageRecord);
}

FormatRegistry.Set('date-time', (text) => new Date(text).toISOString() === text);

/** Returns what is wrong with a record by the schema of the API reference: also a field that it lacks. */
function errorsOf(record: UsageRecord): string[] {
  const attempt = Schema.properties.attempts.items.properties;
  const unknown = [
    ...Object.keys(record).filter((name) => !(name in Schema.properties)),
    ...record.attempts.flatMap((one) => Object.keys(one)).filter((name) => !(name in attempt)),
  ];
  return [...unknown, ...[...Value.Errors(Schema, record)].map(({ path, message }) => `${path}: ${message}`)];
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, number) => total + number, 0);
/** Costs are multiples of 1e-12 USD. */
const units = (usd: number) => Math.round(usd * 1e12);

/** Asserts that records are as the API reference says, that the calls of each record have its tokens together, and its cost if they have one. */
export function assertShares(t: Test, records: readonly UsageRecord[]): void {
  for (const record of records) t.same(errorsOf(record), [], `${record.stream} is as its schema says`);
  for (const { stream, inputTokens, outputTokens, cost, attempts, ...record } of records) {
    const ofAttempts = [sum(attempts.map((one) => one.inputTokens)), sum(attempts.map((one) => one.outputTokens))];
    t.same(ofAttempts, [inputTokens, outputTokens], `${stream}: tokens of all calls`);
    const negative = attempts.filter((one) => one.inputTokens < 0 || one.outputTokens < 0);
    t.same(negative, [], `${stream}: no negative tokens`);
    t.ok(record.estimatedInputTokens <= inputTokens && record.estimatedOutputTokens <= outputTokens, 'a part');
    if (attempts.some((one) => one.cost !== undefined)) {
      t.equal(
        units(sum(attempts.map((one) => one.cost ?? 0))),
        units(cost ?? Number.NaN),
        `${stream}: cost of all calls`,
      );
    }
  }
}

/** Asserts that records hold exactly what the metrics of services count, for each key. */
export async function assertMetrics(
  t: Test,
  apps: readonly FastifyInstance[],
  records: readonly UsageRecord[],
  keys: readonly string[],
): Promise<void> {
  const metric = async (name: string, labels: Record<string, string>) => {
    let total = 0;
    for (const app of apps) total += await metricValue(app, name, labels);
    return total;
  };
  for (const key of keys) {
    const own = records.filter((record) => record.key === key);
    const tokens = (kind: string, basis: string) => metric('sluice_tokens_total', { key, kind, basis });
    const estimated = [
      sum(own.map((one) => one.estimatedInputTokens)),
      sum(own.map((one) => one.estimatedOutputTokens)),
    ];
    const all = [sum(own.map((one) => one.inputTokens)), sum(own.map((one) => one.outputTokens))];
    const counted = all.map((tokens, i) => tokens - (estimated[i] ?? 0));
    t.same(counted, [await tokens('input', 'counted'), await tokens('output', 'counted')], `${key}: counted`);
    t.same(estimated, [await tokens('input', 'estimated'), await tokens('output', 'estimated')], `${key}: estimated`);
    const cached = sum(own.map((one) => one.cachedTokens ?? 0));
    const reasoning = sum(own.map((one) => one.reasoningTokens ?? 0));
    t.same([cached, reasoning], [await tokens('cached', 'counted'), await tokens('reasoning', 'counted')], key);
    const cost = units(sum(own.map((one) => one.cost ?? 0)));
    t.equal(cost, units(await metric('sluice_cost_total', { key })), `${key}: cost`);
    const estimatedCost = units(sum(own.map((one) => one.estimatedCost ?? 0)));
    t.equal(
      estimatedCost,
      units(await metric('sluice_cost_total', { key, basis: 'estimated' })),
      `${key}: estimated cost`,
    );
  }
}
