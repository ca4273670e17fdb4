import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

const FIRST_TOKEN_BUCKETS = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60];

/** Calls of providers, and what is done about those that fail. */
export function upstreamMetrics(registers: Registry[]) {
  return {
    timeToFirstTokenSeconds: new Histogram({
      name: 'sluice_time_to_first_token_seconds',
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
    timeouts: new Counter({
      name: 'sluice_timeouts_total',
      help: 'Upstreams waited for in vain: connect, headers, first_token, idle, total',
      labelNames: ['provider', 'stage'] as const,
      registers,
    }),
    parseErrors: new Counter({
      name: 'sluice_parse_errors_total',
      help: 'Answers of upstreams that were no valid stream, or no whole one',
      labelNames: ['provider'] as const,
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
    upstreamReadIntervalSeconds: new Gauge({
      name: 'sluice_upstream_read_interval_seconds',
      help: 'Least time between two reads of one upstream now: it grows as the core fills',
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
      help: 'Times that a key was laid aside: credentials, rate_limited',
      labelNames: ['provider', 'reason'] as const,
      registers,
    }),
  };
}

/**
 * By undici's own channel, so that providers need not know that somebody counts. A chunk is often one
 * token: all it costs is an addition. Returns how to stop.
 */
export function countBytesIn(registers: Registry[]): () => Promise<void> {
  let bytes = 0;
  new Counter({
    name: 'sluice_bytes_in_total',
    help: 'Bytes of answers that upstreams have sent to this process',
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
