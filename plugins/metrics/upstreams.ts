import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

const FIRST_TOKEN_BUCKETS = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60];

/** Metrics of provider calls, retries, fallbacks and breakers. */
export function upstreamMetrics(registers: Registry[]) {
  return {
    timeToFirstTokenSeconds: new Histogram({
      name: 'sluice_time_to_first_token_seconds',
      help: 'Seconds from the call of the provider to the first part of its answer',
      labelNames: ['provider'] as const,
      buckets: FIRST_TOKEN_BUCKETS,
      registers,
    }),
    upstreamAttempts: new Counter({
      name: 'sluice_upstream_attempts_total',
      help: 'Provider calls, by outcome: ok, aborted, or the reason of the failure',
      labelNames: ['provider', 'outcome'] as const,
      registers,
    }),
    upstreamRefusals: new Counter({
      name: 'sluice_upstream_refusals_total',
      help: 'Provider calls that were refused, by reason: context_length_exceeded, content_filter, unsupported_parameter, invalid_parameter, model_not_found, quota_exhausted, credentials',
      labelNames: ['provider', 'reason'] as const,
      registers,
    }),
    timeouts: new Counter({
      name: 'sluice_timeouts_total',
      help: 'Provider calls that timed out, by stage: connect, headers, first_token, idle, total',
      labelNames: ['provider', 'stage'] as const,
      registers,
    }),
    parseErrors: new Counter({
      name: 'sluice_parse_errors_total',
      help: 'Provider answers that were not valid or not complete',
      labelNames: ['provider'] as const,
      registers,
    }),
    parseAnomalies: new Counter({
      name: 'sluice_parse_anomalies_total',
      help: 'Values in provider answers that their API does not describe, by kind: content_type (converted to text), content and tool_name (left out)',
      labelNames: ['provider', 'kind'] as const,
      registers,
    }),
    retries: new Counter({
      name: 'sluice_retries_total',
      help: 'Retries of the same target before any content',
      labelNames: ['provider'] as const,
      registers,
    }),
    fallbacks: new Counter({
      name: 'sluice_fallbacks_total',
      help: 'Fallbacks to the next target before any content',
      labelNames: ['from', 'to'] as const,
      registers,
    }),
    continuations: new Counter({
      name: 'sluice_continuations_total',
      help: 'Answers that another target continued',
      labelNames: ['from', 'to'] as const,
      registers,
    }),
    retriesDenied: new Counter({
      name: 'sluice_retries_denied_total',
      help: 'Retries of the same target that the retry budget denied',
      registers,
    }),
    upstreamReadIntervalSeconds: new Gauge({
      name: 'sluice_upstream_read_interval_seconds',
      help: 'Least seconds between two reads of one upstream connection; grows with the load',
      registers,
    }),
    breakerState: new Gauge({
      name: 'sluice_breaker_state',
      help: 'Circuit breaker of a target: 0 closed, 1 half open, 2 open',
      labelNames: ['provider', 'model'] as const,
      registers,
    }),
    apiKeyCooldowns: new Counter({
      name: 'sluice_api_key_cooldowns_total',
      help: 'Cooldowns of provider API keys, by reason: credentials, rate_limited',
      labelNames: ['provider', 'reason'] as const,
      registers,
    }),
  };
}

/**
 * Counts received bytes through undici's diagnostics channel, so that providers need not count. Costs one
 * addition per chunk. Returns a function that stops counting.
 */
export function startCountingBytesIn(registers: Registry[]): () => Promise<void> {
  let bytes = 0;
  new Counter({
    name: 'sluice_bytes_in_total',
    help: 'Bytes of answers received from providers',
    registers,
    collect() {
      this.inc(bytes);
      bytes = 0;
    },
  });
  const onChunk = (message: unknown) => {
    bytes += (message as { chunk: Buffer }).chunk.length;
  };
  subscribe(CHUNK_CHANNEL, onChunk);
  return async () => void unsubscribe(CHUNK_CHANNEL, onChunk);
}

const CHUNK_CHANNEL = 'undici:request:bodyChunkReceived';
