import fp from 'fastify-plugin';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';

declare module 'fastify' {
  interface FastifyInstance {
    readonly metrics: Metrics;
  }
}

export type Metrics = ReturnType<typeof createMetrics>;

const FIRST_TOKEN_BUCKETS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60];
const TOTAL_BUCKETS = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

/** All that is counted, in one place. Labels are bounded: configured names and fixed words only. */
function createMetrics() {
  const registry = new Registry();
  const registers = [registry];
  return {
    registry,
    generationsActive: new Gauge({
      name: 'sluice_generations_active',
      help: 'Answers being generated now',
      registers,
    }),
    generationSeconds: new Histogram({
      name: 'sluice_generation_seconds',
      help: 'From question to the end of its answer, by outcome (ok, stopped, or an error code)',
      labelNames: ['provider', 'outcome'] as const,
      buckets: TOTAL_BUCKETS,
      registers,
    }),
    firstTokenSeconds: new Histogram({
      name: 'sluice_first_token_seconds',
      help: 'From asking the upstream to the first part of its answer',
      labelNames: ['provider'] as const,
      buckets: FIRST_TOKEN_BUCKETS,
      registers,
    }),
    upstreamAttempts: new Counter({
      name: 'sluice_upstream_attempts_total',
      help: 'Calls of upstreams by outcome (ok, aborted, or the reason of the failure)',
      labelNames: ['provider', 'outcome'] as const,
      registers,
    }),
    retries: new Counter({
      name: 'sluice_retries_total',
      help: 'Calls repeated at the same provider before any content',
      labelNames: ['provider'] as const,
      registers,
    }),
    fallbacks: new Counter({
      name: 'sluice_fallbacks_total',
      help: 'Questions that went on to the next target before any content',
      labelNames: ['from', 'to'] as const,
      registers,
    }),
    continuations: new Counter({
      name: 'sluice_continuations_total',
      help: 'Answers that another target went on with',
      labelNames: ['from', 'to'] as const,
      registers,
    }),
    retriesDenied: new Counter({
      name: 'sluice_retries_denied_total',
      help: 'Repetitions, fallbacks and continuations that the retry budget did not allow',
      registers,
    }),
    breakerState: new Gauge({
      name: 'sluice_breaker_state',
      help: 'Circuit breaker of a target: 0 closed, 1 half open, 2 open',
      labelNames: ['provider', 'model'] as const,
      registers,
    }),
    keysResting: new Counter({
      name: 'sluice_keys_rested_total',
      help: 'Times that a key was laid aside: credentials, rate_limited',
      labelNames: ['provider', 'why'] as const,
      registers,
    }),
    refusals: new Counter({
      name: 'sluice_refusals_total',
      help: 'New questions refused: full, refusing, saturated, pressure, memory, store',
      labelNames: ['why'] as const,
      registers,
    }),
    responsesOpen: new Gauge({ name: 'sluice_responses_open', help: 'SSE responses open now', registers }),
    responsesAborted: new Counter({
      name: 'sluice_responses_aborted_total',
      help: 'SSE responses whose client left before the end',
      registers,
    }),
    responsesStalled: new Counter({
      name: 'sluice_responses_stalled_total',
      help: 'SSE responses cut off because their client took nothing',
      registers,
    }),
    resumes: new Counter({
      name: 'sluice_resumes_total',
      help: 'Reconnects by result: hit, unknown (stream or position gone), ended (nothing left), unavailable',
      labelNames: ['result'] as const,
      registers,
    }),
    redisUp: new Gauge({ name: 'sluice_redis_up', help: 'Whether Redis answers in time: 1, else 0', registers }),
    redisFailures: new Counter({
      name: 'sluice_redis_failures_total',
      help: 'Redis commands that failed: timeout, connection, oom (out of memory), reply (refused)',
      labelNames: ['why'] as const,
      registers,
    }),
    streamsDetached: new Counter({
      name: 'sluice_streams_detached_total',
      help: 'Times that a stream went on without Redis, and could not be resumed elsewhere',
      registers,
    }),
    takeovers: new Counter({
      name: 'sluice_takeovers_total',
      help: 'Streams of a replica that died, taken over here: continued, lost',
      labelNames: ['outcome'] as const,
      registers,
    }),
    limiterDegraded: new Counter({
      name: 'sluice_limiter_degraded_total',
      help: 'Limits that were counted in this process alone, because Redis was away',
      registers,
    }),
    streamsEvicted: new Counter({
      name: 'sluice_streams_evicted_total',
      help: 'Ended streams forgotten before their time, for want of memory',
      registers,
    }),
    eventsOut: new Counter({ name: 'sluice_events_out_total', help: 'SSE events and comments written', registers }),
    bytesOut: new Counter({
      name: 'sluice_bytes_out_total',
      help: 'Bytes of SSE responses handed to the kernel, counted when a response closes',
      registers,
    }),
  };
}

/** `fastify.metrics` */
export default fp(
  async (fastify) => {
    fastify.decorate('metrics', createMetrics());
  },
  { name: 'metrics' },
);
