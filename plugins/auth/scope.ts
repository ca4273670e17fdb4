import fp from 'fastify-plugin';
import type { Access } from './identity.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Credentials that the route accepts. Required in the api scope. */
    access?: Access;
  }
}

/**
 * Authenticates every request of the scope in which it is registered. A route there without
 * `config.access` fails the start, so that no route is public by mistake.
 */
export default fp(
  async (scope) => {
    scope.addHook('onRoute', ({ method, url, config }) => {
      if (config?.access === undefined) throw new Error(`route ${method} ${url} declares no config.access`);
    });
    scope.addHook('onRequest', scope.auth.authenticate);
  },
  { name: 'auth-scope', dependencies: ['auth'] },
);
