import type { FastifyInstance, HTTPMethods, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    /** Answers 405 with `Allow` for every other method on the paths known so far. Call once, last. */
    addMethodNotAllowedRoutes(): void;
  }
}

/** Known paths answer 405 and not 404 to a wrong method. OPTIONS is left to CORS. */
export default fp(
  async (fastify) => {
    const allowed = new Map<string, Set<string>>();
    const onRoute = ({ url, method }: RouteOptions) => {
      if (url === '*') return;
      const methods = allowed.get(url) ?? new Set();
      allowed.set(url, methods);
      for (const one of [method].flat()) methods.add(one);
    };
    let collecting = true;
    fastify.addHook('onRoute', (route) => {
      if (collecting) onRoute(route);
    });
    fastify.decorate('addMethodNotAllowedRoutes', function refuse(this: FastifyInstance) {
      collecting = false;
      for (const [url, methods] of allowed) addRoute(this, url, methods);
    });
  },
  { name: 'method-not-allowed', dependencies: ['errors'] },
);

function addRoute(fastify: FastifyInstance, url: string, methods: ReadonlySet<string>): void {
  const others = fastify.supportedMethods.filter((method) => method !== 'OPTIONS' && !methods.has(method));
  const allow = [...methods, 'OPTIONS'].join(', ');
  fastify.route({
    url,
    method: others as HTTPMethods[],
    schema: { hide: true },
    // Before the body is looked at.
    async onRequest(_, reply) {
      reply.header('allow', allow);
      throw fastify.httpErrors.methodNotAllowed(`This path takes ${allow}.`);
    },
    async handler() {},
  });
}
