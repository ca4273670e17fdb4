import type { FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { chooseProxy } from '../providers/proxy.ts';
import { createSocketBudget, isSelfHosted, PROVIDER_TYPES, resolveBaseUrl } from '../providers/registry.ts';
import type { Provider } from '../providers/types.ts';
import type { Config } from './config/index.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** The configured providers by name. */
    readonly providers: ReadonlyMap<string, Provider>;
  }
}

export interface ProvidersOptions {
  /** The configured providers by name. */
  readonly entries: Config['providers'];
  /** Providers that replace configured ones of the same name; for tests. */
  readonly overrides?: Readonly<Record<string, Provider>> | undefined;
  /** Proxies of providers that have none of their own. */
  readonly proxy?: Config['proxy'];
  /** Sockets per provider. At least the number of generations: a call that waits for a socket misses its deadlines. */
  readonly connections: number;
  /** Sockets of all providers together. */
  readonly maxSockets: number;
  /** Bytes of a response body that may be buffered. */
  readonly highWaterMark: number;
  readonly connectTimeoutMs: number;
  readonly headersTimeoutMs: number;
}

type CommonOptions = Omit<ProvidersOptions, 'entries' | 'overrides' | 'maxSockets'> & {
  readonly sockets: ReturnType<typeof createSocketBudget>;
};

/** Adds `fastify.providers`, gives them the keys of each reload, and closes their connections when the service closes. */
export default fp<ProvidersOptions>(
  async (fastify, { entries, overrides = {}, maxSockets, ...others }) => {
    const options: CommonOptions = { ...others, sockets: createSocketBudget(maxSockets) };
    const providers = new Map<string, Provider>();
    for (const [name, entry] of Object.entries(entries)) {
      providers.set(name, overrides[name] ?? createProvider(name, entry, options, fastify));
    }
    fastify.decorate('providers', providers);
    const countKeys = (configured: Config['providers']) => {
      for (const [name, { apiKeys = [] }] of Object.entries(configured)) {
        fastify.metrics.providerApiKeys.set({ provider: name }, apiKeys.length);
      }
    };
    countKeys(entries);
    fastify.onConfigReload(({ providers: next }) => {
      for (const [name, { apiKeys = [] }] of Object.entries(next)) providers.get(name)?.setApiKeys?.(apiKeys);
      countKeys(next);
    });
    fastify.addHook('onClose', async () => {
      await Promise.all([...providers.values()].map((provider) => provider.close()));
    });
  },
  { name: 'providers', dependencies: ['audit', 'config', 'clock', 'metrics', 'load'] },
);

function createProvider(
  name: string,
  entry: Config['providers'][string],
  { proxy, ...options }: CommonOptions,
  { clock, metrics, load, audit }: Pick<FastifyInstance, 'clock' | 'metrics' | 'load' | 'audit'>,
): Provider {
  const type = PROVIDER_TYPES[entry.type];
  if (type === undefined) throw new Error(`unknown provider type ${entry.type}`);
  const baseUrl = resolveBaseUrl(type, entry.baseUrl);
  return type.create({
    ...options,
    name,
    baseUrl,
    apiKeys: entry.apiKeys ?? [],
    apiVersion: entry.apiVersion,
    api: entry.api,
    headers: entry.headers,
    sampling: entry.sampling,
    settings: { defaults: entry.defaults, drop: entry.drop, forward: entry.forward },
    allowPrivate: entry.allowPrivate,
    proxyUrl: type.embedded ? undefined : chooseProxy(baseUrl, entry.proxy, proxy),
    checkUrls: !type.embedded && !entry.allowPrivate && isSelfHosted(type, baseUrl),
    now: clock.now,
    onCooldown(reason, isFirst) {
      metrics.apiKeyCooldowns.inc({ provider: name, reason });
      audit.providerKeyCooldown(name, reason, isFirst);
    },
    onAnomaly: (kind) => metrics.parseAnomalies.inc({ provider: name, kind }),
    readIntervals: { now: clock.now, intervalMs: load.readIntervalMs, afterInterval: load.afterInterval },
  });
}
