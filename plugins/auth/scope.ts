import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * Credentials that a route of the api scope accepts if keys or tokens are configured: a key or token
     * (`api`), also a ticket for one question (`ask`), also a ticket for this stream (`read`), or none
     * (`public`).
     */
    access?: 'api' | 'ask' | 'read' | 'public';
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
