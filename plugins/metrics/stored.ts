import { Counter, type Registry } from 'prom-client';

/** Metrics of stored responses and of webhooks. */
export function storedMetrics(registers: Registry[]) {
  return {
    responsesEvicted: new Counter({
      name: 'sluice_stored_responses_evicted_total',
      help: 'Stored responses removed before their time to live, because there were too many',
      registers,
    }),
    webhooks: new Counter({
      name: 'sluice_webhooks_total',
      help: 'Attempts to deliver a webhook, by outcome: delivered, retry (failed, will be repeated), failed (given up), dropped (too many waited)',
      labelNames: ['outcome'] as const,
      registers,
    }),
  };
}
