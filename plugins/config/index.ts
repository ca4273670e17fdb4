import fp from 'fastify-plugin';
import type { Config } from './schema.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly config: Config;
  }
}

export type { Config } from './schema.ts';

/** `fastify.config`: the checked configuration. */
export default fp<{ config: Config }>(
  async (fastify, { config }) => {
    fastify.decorate('config', config);
  },
  { name: 'config' },
);
