import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

const TOTAL_BUCKETS = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

/** Answers, from question to end. `model` is a configured name, or `provider/*` where a provider is open to all. */
export function generationMetrics(registers: Registry[]) {
  return {
    generationsActive: new Gauge({ name: 'sluice_generations_active', help: 'Answers being generated now', registers }),
    generations: new Counter({
      name: 'sluice_generations_total',
      help: 'Answers that have ended, by outcome (ok, stopped, or an error code)',
      labelNames: ['model', 'target', 'outcome'] as const,
      registers,
    }),
    generationSeconds: new Histogram({
      name: 'sluice_generation_seconds',
      help: 'From question to the end of its answer',
      labelNames: ['model', 'outcome'] as const,
      buckets: TOTAL_BUCKETS,
      registers,
    }),
    tokens: new Counter({
      name: 'sluice_tokens_total',
      help: 'Tokens as providers count them: input, output, cached (of the input), reasoning (of the output)',
      labelNames: ['model', 'kind'] as const,
      registers,
    }),
    generationsAborted: new Counter({
      name: 'sluice_generations_aborted_total',
      help: 'Calls that this service ended: readers (all left), stop, limit, shutdown, taken (by another replica)',
      labelNames: ['reason'] as const,
      registers,
    }),
    refusals: new Counter({
      name: 'sluice_refusals_total',
      help: 'New questions refused: full, draining, saturated, pressure, memory, store, limit_*',
      labelNames: ['reason'] as const,
      registers,
    }),
    streamsEvicted: new Counter({
      name: 'sluice_streams_evicted_total',
      help: 'Ended streams forgotten before their time, for want of memory',
      registers,
    }),
    limiterDegraded: new Counter({
      name: 'sluice_limiter_degraded_total',
      help: 'Limits that were counted in this process alone, because Redis was away',
      registers,
    }),
  };
}
