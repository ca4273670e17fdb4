import fp from 'fastify-plugin';
import type { Config } from './schema.ts';

export type { Config };

declare module 'fastify' {
  interface FastifyInstance {
    readonly config: Config;
    /**
     * Applies keys, tokens and models of another configuration to the running service. Other settings
     * need a restart.
     * @throws RestartRequired if it has a provider that is not running, or removes all keys and tokens
     */
    reloadConfig(next: Config): void;
    /**
     * Calls the listener with each configuration that is applied. A listener that throws stops the reload, but
     * earlier listeners have applied it already: register a listener that can throw first.
     */
    onConfigReload(listener: (next: Config) => void): void;
  }
}

/** The new configuration cannot be applied to a running service. */
export class RestartRequired extends Error {
  override readonly name = 'RestartRequired';

  constructor(what: string) {
    super(`needs a restart: ${what}`);
  }
}

/** Adds `fastify.config` and its reload. */
export default fp<{ config: Config }>(
  async (fastify, { config }) => {
    const reloadListeners: ((next: Config) => void)[] = [];
    fastify.decorate('config', config);
    fastify.decorate('onConfigReload', (listener: (next: Config) => void) => {
      reloadListeners.push(listener);
    });
    fastify.decorate('reloadConfig', (next: Config) => {
      const missing = Object.keys(next.providers).filter((name) => config.providers[name] === undefined);
      if (missing.length > 0) throw new RestartRequired(`new providers: ${missing.join(', ')}`);
      for (const listener of reloadListeners) listener(next);
    });
  },
  { name: 'config' },
);
