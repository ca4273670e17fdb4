import fp from 'fastify-plugin';
import { type ConfigChanges, createChangeTracker } from './changes.ts';
import { RestartRequired, settingsThatNeedRestart } from './restart.ts';
import type { Config } from './schema.ts';

export { type Config, type ConfigChanges, RestartRequired };

declare module 'fastify' {
  interface FastifyInstance {
    /** The configuration at the start. */
    readonly config: Config;
    /**
     * Applies the settings of another configuration that need no restart (`restart.ts`).
     * @throws RestartRequired if it has a provider that is not running, or removes all keys and tokens
     */
    reloadConfig(next: Config): ReloadReport;
    /**
     * Calls the listener with each configuration that is applied. A listener that throws stops the reload, but
     * earlier listeners have applied it already: register a listener that can throw first.
     */
    onConfigReload(listener: (next: Config) => void): void;
  }
}

export interface ReloadReport {
  /** Number of client keys. */
  readonly keys: number;
  /** Number of API keys of each provider. */
  readonly apiKeys: Readonly<Record<string, number>>;
  /** Changes since the last reload. */
  readonly changes: ConfigChanges;
  /** Settings that have changed since the start and are not applied. */
  readonly needsRestart: readonly string[];
}

/** Adds `fastify.config` and its reload. */
export default fp<{ config: Config }>(
  async (fastify, { config }) => {
    const reloadListeners: ((next: Config) => void)[] = [];
    const track = createChangeTracker(config);
    fastify.decorate('config', config);
    fastify.decorate('onConfigReload', (listener: (next: Config) => void) => {
      reloadListeners.push(listener);
    });
    fastify.decorate('reloadConfig', (next: Config): ReloadReport => {
      const missing = Object.keys(next.providers).filter((name) => config.providers[name] === undefined);
      if (missing.length > 0) throw new RestartRequired(`new providers: ${missing.join(', ')}`);
      for (const listener of reloadListeners) listener(next);
      const counts = Object.entries(next.providers).map(([name, { apiKeys = [] }]) => [name, apiKeys.length]);
      return {
        keys: next.keys.length,
        apiKeys: Object.fromEntries(counts),
        changes: track(next),
        needsRestart: settingsThatNeedRestart(config, next),
      };
    });
  },
  { name: 'config' },
);
