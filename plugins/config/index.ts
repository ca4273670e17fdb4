import fp from 'fastify-plugin';
import type { Config } from './schema.ts';

export type { Config };

declare module 'fastify' {
  interface FastifyInstance {
    readonly config: Config;
    /**
     * Takes keys, tokens and models from another configuration while the service runs. What else it
     * says waits for a restart.
     * @throws where its models need a provider that does not run
     */
    reloadConfig(next: Config): void;
    /** Calls `take` with every configuration that is taken. */
    onConfigReload(take: (next: Config) => void): void;
  }
}

/** `fastify.config` */
export default fp<{ config: Config }>(
  async (fastify, { config }) => {
    const reloadListeners: ((next: Config) => void)[] = [];
    fastify.decorate('config', config);
    fastify.decorate('onConfigReload', (take: (next: Config) => void) => {
      reloadListeners.push(take);
    });
    fastify.decorate('reloadConfig', (next: Config) => {
      const missing = Object.keys(next.providers).filter((name) => config.providers[name] === undefined);
      if (missing.length > 0) throw new RestartRequired(`the providers ${missing.join(', ')}`);
      for (const take of reloadListeners) take(next);
    });
  },
  { name: 'config' },
);

export class RestartRequired extends Error {
  override readonly name = 'NeedsRestart';

  constructor(what: string) {
    super(`only a restart brings ${what}`);
  }
}
