import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { PROVIDER_TYPES } from '../providers/registry.ts';
import type { Provider } from '../providers/types.ts';
import type { Config } from './config/index.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** The configured upstreams by name. */
    readonly providers: ReadonlyMap<string, Provider>;
  }
}

/** `fastify.providers`. A test puts its own beside, or in place of, the configured ones. */
export default fp<{ overrides?: Readonly<Record<string, Provider>> | undefined }>(
  async (fastify, { overrides = {} }) => {
    const providers = new Map<string, Provider>();
    for (const [name, entry] of Object.entries(fastify.config.providers)) {
      providers.set(name, overrides[name] ?? create(name, entry, fastify));
    }
    fastify.decorate('providers', providers);
    fastify.addHook('onClose', async () => {
      await Promise.all([...providers.values()].map((provider) => provider.close()));
    });
  },
  { name: 'providers', dependencies: ['config', 'clock', 'metrics', 'load'] },
);

function create(name: string, entry: Config['providers'][string], fastify: FastifyInstance): Provider {
  const { clock, metrics, load, log } = fastify;
  const { streams, deadlines } = fastify.config;
  const type = PROVIDER_TYPES[entry.type];
  if (type === undefined) throw new Error(`no provider type ${entry.type}`);
  return type.create({
    name,
    baseUrl: entry.baseUrl ?? type.baseUrl ?? '',
    apiKeys: entry.apiKeys ?? [],
    apiVersion: entry.apiVersion,
    allowPrivate: entry.allowPrivate,
    now: clock.now,
    onCooldown(why, first) {
      metrics.apiKeyCooldowns.inc({ provider: name, reason: why });
      if (why === 'credentials' && first) log.error({ provider: name }, 'the provider refuses a key');
    },
    // Admission is decided before: a queue in the pool would be silent and outlive its deadline.
    connections: streams.maxGenerations,
    highWaterMark: streams.highWaterMark,
    readIntervals: { now: clock.now, intervalMs: load.readIntervalMs, afterInterval: load.afterInterval },
    connectTimeoutMs: deadlines.connectMs,
    headersTimeoutMs: deadlines.headersMs,
  });
}
