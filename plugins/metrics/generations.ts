import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

const TOTAL_BUCKETS = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

/** Metrics of generations. Label `model` is a configured name, or `provider/*` for a provider that allows all models. */
export function generationMetrics(registers: Registry[]) {
  return {
    generationsActive: new Gauge({ name: 'sluice_generations_active', help: 'Generations running now', registers }),
    generations: new Counter({
      name: 'sluice_generations_total',
      help: 'Generations that have ended, by outcome: ok, stopped, or an error code',
      labelNames: ['model', 'target', 'outcome'] as const,
      registers,
    }),
    generationSeconds: new Histogram({
      name: 'sluice_generation_seconds',
      help: 'Seconds from the question to the end of its answer',
      labelNames: ['model', 'outcome'] as const,
      buckets: TOTAL_BUCKETS,
      registers,
    }),
    tokens: new Counter({
      name: 'sluice_tokens_total',
      help: 'Tokens of ended generations. kind: input, output, cached (part of the input), reasoning (part of the output). basis: counted (by the provider) or estimated. key: as in sluice_requests_total',
      labelNames: ['key', 'model', 'kind', 'basis'] as const,
      registers,
    }),
    cost: new Counter({
      name: 'sluice_cost_total',
      help: 'Cost of ended generations in USD, where the price is known. basis: counted (tokens counted by the provider) or estimated. key: as in sluice_requests_total',
      labelNames: ['key', 'model', 'basis'] as const,
      registers,
    }),
    usageRecords: new Counter({
      name: 'sluice_usage_records_total',
      help: 'Usage records, by destination (stdout, file, redis) and outcome: written, dropped',
      labelNames: ['destination', 'outcome'] as const,
      registers,
    }),
    generationsAborted: new Counter({
      name: 'sluice_generations_aborted_total',
      help: 'Generations that this service ended, by reason: readers (all readers left), stop, limit, shutdown (or taken over by another replica), revoked',
      labelNames: ['reason'] as const,
      registers,
    }),
    refusals: new Counter({
      name: 'sluice_refusals_total',
      help: 'New questions refused, by reason: full, descriptors, draining, saturated, pressure, memory, store, version, prompts, readers, limit_requests, limit_tokens, limit_tokens_per_day, limit_concurrent, limit_budget, limit_prompts, limit_readers; also limit_address, of any request',
      labelNames: ['reason'] as const,
      registers,
    }),
    streamsEvicted: new Counter({
      name: 'sluice_streams_evicted_total',
      help: 'Ended streams evicted before their time to live, because memory was full',
      registers,
    }),
    limiterDegraded: new Counter({
      name: 'sluice_limiter_degraded_total',
      help: 'Limit checks that counted in this process only, because Redis was unavailable',
      registers,
    }),
  };
}
