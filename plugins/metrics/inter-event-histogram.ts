import type { Metric, Registry } from 'prom-client';

/** Upper bounds in milliseconds. */
const BOUNDS_MS = [5, 10, 20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];

/**
 * Histogram for observations at every event of every stream. One observation costs a few comparisons and
 * an addition: 6 to 10 ns, against 180 ns for prom-client's histogram (Node 20 and 26). Values for
 * Prometheus are made when the metric is read.
 */
export class InterEventHistogram {
  readonly #counts = new Float64Array(BOUNDS_MS.length + 1);
  #sumMs = 0;

  constructor(name: string, help: string, registers: readonly Registry[]) {
    const metric = { name, help, type: 'histogram', aggregator: 'sum' };
    const get = async () => ({ ...metric, values: this.#values(name) });
    for (const registry of registers) registry.registerMetric({ ...metric, get } as unknown as Metric);
  }

  observe(ms: number): void {
    let bucket = 0;
    while (bucket < BOUNDS_MS.length && ms > (BOUNDS_MS[bucket] as number)) bucket += 1;
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
    this.#sumMs += ms;
  }

  #values(name: string): object[] {
    let total = 0;
    const buckets = [...this.#counts].map((count, i) => {
      total += count;
      const le = i < BOUNDS_MS.length ? (BOUNDS_MS[i] as number) / 1_000 : '+Inf';
      return { metricName: `${name}_bucket`, labels: { le }, value: total };
    });
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels: {}, value: this.#sumMs / 1_000 },
      { metricName: `${name}_count`, labels: {}, value: total },
    ];
  }
}
