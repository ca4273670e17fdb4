import type { FastifyInstance, HTTPMethods, RouteOptions } from 'fastify';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    /** Adds routes that answer 405 with `Allow` to every known path. Call once, after all other routes. */
    addMethodNotAllowedRoutes(): void;
  }
}

interface KnownPath {
  /** The scope in which the path was added: its error handler answers. */
  readonly scope: FastifyInstance;
  /** The path without the prefix of the scope. */
  readonly path: string;
  readonly methods: Set<string>;
}

/** Answers other methods of a known path with 405 instead of 404. OPTIONS is left to CORS. */
export default fp(
  async (fastify) => {
    const paths = new Map<string, KnownPath>();
    let isCollecting = true;

    fastify.addHook('onRoute', function collect(this: FastifyInstance, route: RouteOptions & { routePath: string }) {
      if (!isCollecting || route.url === '*') return;
      const known = paths.get(route.url) ?? { scope: this, path: route.routePath, methods: new Set() };
      paths.set(route.url, known);
      for (const method of [route.method].flat()) known.methods.add(method);
    });

    fastify.decorate('addMethodNotAllowedRoutes', () => {
      isCollecting = false;
      for (const { scope, path, methods } of paths.values()) addRoute(scope, path, methods);
    });
  },
  { name: 'method-not-allowed', dependencies: ['errors'] },
);

function addRoute(scope: FastifyInstance, path: string, methods: ReadonlySet<string>): void {
  const otherMethods = scope.supportedMethods.filter((method) => method !== 'OPTIONS' && !methods.has(method));
  const allow = [...methods, 'OPTIONS'].join(', ');
  scope.route({
    url: path,
    method: otherMethods as HTTPMethods[],
    config: { access: 'public' },
    schema: { hide: true },
    // Answers before the body is read.
    async onRequest(_, reply) {
      reply.header('allow', allow);
      throw scope.httpErrors.methodNotAllowed(`Method not allowed. Allowed: ${allow}.`);
    },
    async handler() {},
  });
}
