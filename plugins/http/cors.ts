import cors from '@fastify/cors';
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';

/** Lets the pages of `corsOrigins` call. Without any, only pages of the same origin can. */
export default fp(
  async (fastify) => {
    const { corsOrigins } = fastify.config;
    const open = corsOrigins.includes('*');

    // Before the CORS headers are written: who is refused is told nothing of who is not.
    fastify.addHook('onRequest', async (request) => {
      const { origin } = request.headers;
      const isPreflight = origin !== undefined && request.headers['access-control-request-method'] !== undefined;
      if (request.method === 'OPTIONS' && !isPreflight) throw fastify.httpErrors.notFound('OPTIONS is for CORS alone.');
      if (origin === undefined || open || corsOrigins.includes(origin) || isSameOrigin(request, origin)) return;
      throw fastify.httpErrors.forbidden('Pages of this origin may not call.');
    });

    await fastify.register(cors, {
      origin: open ? '*' : corsOrigins,
      methods: ['GET', 'POST', 'DELETE'],
      exposedHeaders: ['location', 'retry-after', 'x-request-id', 'x-sluice-stream'],
      maxAge: 86_400,
    });
  },
  { name: 'cors', dependencies: ['config', 'errors'] },
);

/** What the browser says of it counts, too: a gateway may have put its own name for us into `Host`. */
function isSameOrigin({ headers, host }: FastifyRequest, origin: string): boolean {
  if (headers['sec-fetch-site'] === 'same-origin') return true;
  return URL.canParse(origin) && new URL(origin).host === host;
}
