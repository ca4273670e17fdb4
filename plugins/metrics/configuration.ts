import { Counter, Gauge, type Registry } from 'prom-client';

/** Metrics of the configuration. */
export function configurationMetrics(registers: Registry[]) {
  return {
    configReloads: new Counter({
      name: 'sluice_config_reloads_total',
      help: 'Reloads of the configuration, by outcome: applied, refused',
      labelNames: ['outcome'] as const,
      registers,
    }),
    providerApiKeys: new Gauge({
      name: 'sluice_provider_api_keys',
      help: 'API keys of a provider in the configuration',
      labelNames: ['provider'] as const,
      registers,
    }),
  };
}
